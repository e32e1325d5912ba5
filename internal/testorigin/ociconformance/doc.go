// Package ociconformance checks that a registry behaves as Penstock's image
// code assumes, through two real clients: the containerd resolver (resolve,
// fetch, seek, push) and go-containerregistry (pull, push, mount, tags,
// referrers).
//
//	ociconformance.Run(t, ociconformance.Config{Host: "127.0.0.1:5000", User: "u", Password: "p"})
//
// Every check is a subtest named client/check. Config.Skip turns one off and
// must give a reason. Checks push their images into repositories below
// Config.Prefix and leave them there. They use plain HTTP.
package ociconformance
