// Package registry speaks to OCI and Docker registries: it finds out which
// manifest a reference means, checks it, and makes every blob of it a
// [ranges.Source].
//
//	client, err := registry.New(registry.Options{})
//	defer client.Close()
//	ref, err := registry.ParseReference("alpine:3.20")
//	img, err := client.Resolve(ctx, engine, ref, platform)
//	src := client.Blob(ref, img.Layers[0].Descriptor)
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
//     presigned URL ran out, the next hop of a redirect, the next host after
//     a 404. Each happens at most once for each call; the engine does the rest.
//   - Tokens are refreshed once for all requests that wait for them, and apart from
//     the life of the request that noticed: a cancelled hedge fails nobody else.
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
