// Command replicas shows the load of more replicas of a DNS cache on the source:
// how many questions go upstream when the queries of a cluster are spread over 1,
// 4, 16, 256 and 6,250 replicas. The last is what CoreDNS's usual autoscaler
// gives 100,000 nodes.
//
//	go run ./benchmarks/dns/replicas
//	go run ./benchmarks/dns/replicas -quick
//
// It makes the questions of a cluster (internal/dnsload) and the answers that
// the cluster's zones give, and plays them through the plugin's own store in a
// program apart (dnsplugin/internal/cmd/replicas), in simulated time. The report
// has the count and the value by theory: a name that is asked for λ times a
// second at random moments and kept for T seconds is missed λ/(1+λT) times a
// second. Nothing is timed, so the run may share its machine.
package main
