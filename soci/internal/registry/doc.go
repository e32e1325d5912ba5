// Package registry is a client of OCI and Docker registries. It finds the
// manifest that a reference names, checks it, and provides every blob of it as
// a [ranges.Source].
//
//	client, err := registry.New(registry.Options{})
//	defer client.Close()
//	ref, err := registry.ParseReference("alpine:3.20")
//	img, err := client.Resolve(ctx, engine, ref, platform)
//	src, err := client.Layer(ref, img.Layers[0])
//
// # Vocabulary
//
// A host serves the content of a registry. It is the registry itself, or a
// mirror that hosts.toml lists before the registry. An origin is the target of
// a blob's redirect, usually a presigned URL of an object store.
//
// # Rules
//
//   - Sources do not retry, because retries belong to the engine. A call makes
//     one request, plus the requests that its answer makes necessary: for a
//     token after a 401, to the registry after a presigned URL has expired, for
//     the next hop of a redirect, and to the next host if one failed or is
//     silent. It makes each of these at most once.
//   - Files (hosts.toml, certificates, credentials) are read when they are
//     needed. A host whose configuration has not changed keeps its connections.
//   - A client remembers, across pulls, which hosts recently gave no answer,
//     and asks them last.
//   - A login belongs to one pull. The login and its secrets live as long as
//     the Image of that pull. A token is refreshed once for all requests that
//     wait for it. A refresh does not end with the request that started it, so
//     a cancelled hedge does not fail other requests.
//   - A registry may name a token server, but not one at a more local address
//     than its own, and not one on http if the registry is on https.
//   - Redirects are followed here, not by net/http, and without Authorization.
//     A presigned URL is kept for a blob until it is refused.
//   - A manifest or config is accepted only if its digest is right.
//
// # Concurrency and failures
//
// A Client and its sources may be used from many goroutines. Failed requests
// return errors that wrap *ranges.Fault. URLs in errors carry no query.
//
// # Not done here
//
// Pushing, deleting, and referrers.
package registry
