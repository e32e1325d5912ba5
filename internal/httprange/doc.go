// Package httprange makes one ranged HTTP GET and believes nothing that it did
// not check: the status, Content-Range, the length, the validator and the body's
// real end. It is what turns a URL into a [ranges.Source]; it never loops, for
// retries belong to the engine.
//
//	get := httprange.Getter{Client: client, FreshClient: fresh}
//	body, info, err := get.Open(ctx, url, ranges.Request{Off: 0, Len: 8 << 20}, sign)
//
// # Answers
//
//   - 206 with the Content-Range that was asked for, or its beginning: the bytes.
//     Accept-Ranges is not required (RFC 9110 section 14.3).
//   - 200: the whole object, with or without a length; the engine decides whether
//     that is of use.
//   - 206 with another range, without Content-Range, as multipart/byteranges, or
//     with a Content-Encoding: an error. Such bytes never reach a reader.
//   - 412: the object is not the pinned one any more. The pin is the ETag, in the
//     spelling of the object's own answer, or Last-Modified where there is none.
//   - 416: the range starts after the end; the size comes along if told.
//   - 429, 503: throttled, with Retry-After in seconds or as a date.
//   - 401, 403: denied. 404, 410: not found. Other 5xx, 408: to be asked again.
//
// # Connections
//
// [Transport] is the way that the bytes take: one goroutine writes a request and
// reads its answer, and on Linux a socket wakes it for many bytes at once and is
// read without the scheduler's help (see receiver). Over loopback a GET costs its
// reader 0.72 times the CPU time that it costs through net/http, for answers of 64
// KiB and of 1 MiB, and 0.83 times for 8 MiB (BenchmarkGet; two virtual EPYC cores).
// TLS, as everything else, is right but has not this second half.
//
// Before an idle connection is used again it is looked at without waiting: one that
// was closed, or on which an answer came that was not asked for, is dropped. When a
// reused connection stays silent for the engine's patience, the idle ones of its host
// go too.
//
// Errors name the URL without its query, user and fragment: presigned URLs
// carry their secret there.
package httprange
