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
// A host serves the content of a registry: the registry itself, or a mirror
// that hosts.toml names before it. An origin is the target of a blob's
// redirect, usually a presigned URL of an object store.
//
// # Rules
//
//   - Sources do not retry. A source makes one request, plus the requests that
//     an answer depends on: for a token after 401, to the registry after an
//     expired presigned URL, for the next hop of a redirect, to the next host
//     after one that failed or is silent. Each happens at most once per call;
//     retries belong to the engine.
//   - Files (hosts.toml, certificates, credentials) are read when they are
//     needed. A host whose configuration has not changed keeps its connections.
//   - Hosts that recently gave no answer are remembered across pulls and asked
//     last.
//   - Logins belong to a pull. They, and the secrets in them, end with its
//     Image. Tokens are refreshed once for all requests that wait for them. A
//     refresh does not end with the request that started it, so a cancelled
//     hedge does not fail other requests.
//   - A registry may name a token server, but not one at a more local address
//     than its own, and not one on http if the registry is on https.
//   - Redirects are followed here, not by net/http, and without Authorization.
//     A presigned URL is kept for a blob until it is refused.
//   - A manifest or config is accepted only if its digest is right.
//
// # Concurrency and failures
//
// A Client and its sources may be used from many goroutines. Errors wrap
// *ranges.Fault; URLs in them carry no query.
//
// # Not done here
//
// Pushing, deleting, and referrers.
package registry
