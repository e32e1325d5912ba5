package main

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	linkAttribute = regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	idAttribute   = regexp.MustCompile(` id="([^"]*)"`)
)

// check returns an error for each link of the HTML whose file or anchor is not
// in the site, and for each file that a page would load from elsewhere.
func check(files map[string][]byte) error {
	ids := map[string][]string{}
	for name, content := range files {
		for _, m := range idAttribute.FindAllStringSubmatch(string(content), -1) {
			ids[name] = append(ids[name], m[1])
		}
	}
	var bad []error
	for name, content := range files {
		if !strings.HasSuffix(name, ".html") {
			continue
		}
		for _, m := range linkAttribute.FindAllStringSubmatch(string(content), -1) {
			if strings.Contains(m[1], ":") {
				if strings.HasPrefix(m[0], "src") {
					bad = append(bad, fmt.Errorf("%s loads %s", name, m[1]))
				}
				continue
			}
			file, fragment, _ := strings.Cut(m[1], "#")
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			if _, ok := files[to]; !ok {
				bad = append(bad, fmt.Errorf("%s links to %s, which does not exist", name, m[1]))
			} else if fragment != "" && !slices.Contains(ids[to], fragment) {
				bad = append(bad, fmt.Errorf("%s links to %s, which has no such heading", name, m[1]))
			}
		}
	}
	slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(bad...)
}
