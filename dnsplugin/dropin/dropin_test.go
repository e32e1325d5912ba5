package dropin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/penstock/penstock/dnsplugin"
	_ "github.com/penstock/penstock/dnsplugin/dropin"
)

// setup runs the directive "cache" as CoreDNS does.
func setup(corefile string) (*dnsplugin.Cache, error) {
	c := caddy.NewTestController("dns", corefile)
	action, err := caddy.DirectiveAction("dns", "cache")
	if err != nil {
		return nil, err
	}
	if err := action(c); err != nil {
		return nil, err
	}
	ca, ok := dnsserver.GetConfig(c).Plugin[0](nil).(*dnsplugin.Cache)
	if !ok {
		return nil, fmt.Errorf("not our cache")
	}
	return ca, nil
}

// The Corefile of every Kubernetes cluster, and all options of CoreDNS's cache.
func TestCorefilesOfCoreDNSAreUnderstood(t *testing.T) {
	for _, corefile := range []string{
		"cache 30",
		"cache 30 {\ndisable success cluster.local\ndisable denial cluster.local\n}",
		"cache {\nsuccess 9984 30\ndenial 9984 5\n}", // NodeLocal DNSCache
		"cache 300 example.org {\nsuccess 10000 600 10\ndenial 5000 60 5\nprefetch 10 1m 10%\nserve_stale 1h verify 100ms 30s 30s\nserve_stale_policy prefer_positive\nservfail 10s\nkeepttl\n}",
	} {
		ca, err := setup(corefile)
		if err != nil {
			t.Errorf("%s: %v", corefile, err)
			continue
		}
		if ca.Name() != "cache" {
			t.Errorf("its name is %q: metrics and logs would change", ca.Name())
		}
		if err := ca.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsNameTheDirective(t *testing.T) {
	if _, err := setup("cache {\nsuccess x\n}"); err == nil || !strings.HasPrefix(err.Error(), "plugin/cache: Testfile:2") {
		t.Errorf("%v", err)
	}
}

func Example() {
	cache, err := setup("cache 30 example.org")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	fmt.Println("directive:", cache.Name())
	// Output: directive: cache
}
