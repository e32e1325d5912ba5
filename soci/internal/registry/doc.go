// Package registry speaks to OCI and Docker registries: it finds out which
// manifest a reference means, checks it, and makes every blob of it a
// [ranges.Source].
//
//	client, err := registry.New(registry.Options{})
//	defer client.Close()
//	ref, err := registry.ParseReference("alpine:3.20")
//	img, err := client.Resolve(ctx, engine, ref, platform)
//	src, err := client.Layer(ref, img.Layers[0])
//
// # Vocabulary
//
// A host is one place that serves a registry's content: the registry itself or a
// mirror that hosts.toml names before it. An origin is what a blob's URL redirects
// to, usually a presigned URL of an object store.
//
// # Rules
//
//   - Nothing here retries. A source makes one request, plus the ones without which
//     it can not be answered at all: a token after 401, the registry after a
//     presigned URL ran out, the next hop of a redirect, the next host after one that
//     failed or is silent. Each happens at most once for each call; the engine does
//     the rest.
//   - Files (hosts.toml, certificates, credentials) count as they are when they are
//     needed. A host whose configuration has not changed keeps its connections.
//   - Which hosts did not answer lately is remembered over all pulls: they are asked last.
//   - Logins belong to a pull: they, and the secrets in them, end with its Image.
//     Tokens are refreshed once for all requests that wait for them, and apart from
//     the life of the request that noticed: a cancelled hedge fails nobody else.
//   - A registry can name a token server, but not one at a more local address than its
//     own, nor one on http when it is on https.
//   - Redirects are followed here, never by net/http, and without Authorization. A
//     presigned URL is kept for a blob until it is refused.
//   - A manifest or config counts only when its digest is right.
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
