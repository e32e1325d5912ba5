// Package httprange makes one ranged HTTP GET and checks its answer: the status,
// Content-Range, the length, the validator and the real end of the body. With it a
// [ranges.Source] reads a URL. It never retries, because retries belong to the
// engine.
//
//	get := httprange.Getter{Client: client, FreshClient: fresh}
//	body, info, err := get.Open(ctx, url, ranges.Request{Off: 0, Len: 8 << 20}, sign)
//
// # Answers
//
//   - 206 with the requested Content-Range or its beginning: the bytes.
//     Accept-Ranges is not required (RFC 9110 section 14.3).
//   - 200: the whole object, with or without a length. The engine decides whether
//     it uses the answer.
//   - 206 with another range, without Content-Range, as multipart/byteranges, or
//     with a Content-Encoding: an error. Such bytes never reach a reader.
//   - 412: the object isn't the pinned version. The pin is the ETag, in the
//     spelling of the object's own answer, or Last-Modified if there is no ETag.
//   - 416: the range starts after the end of the object, whose size is reported
//     if the server sends it.
//   - 429, 503: throttled, with Retry-After in seconds or as a date.
//   - 401, 403: denied. 404, 410: not found. Other 5xx, 408: retryable.
//
// # Connections
//
// [Transport] carries the bytes. One goroutine writes a request and reads its
// answer. On Linux a socket wakes it for many bytes at once, and reads don't
// involve the scheduler (see receiver). Over loopback a GET costs its reader 0.72
// times the CPU time of net/http for answers of 64 KiB and of 1 MiB, and 0.83
// times for 8 MiB (BenchmarkGet; two virtual EPYC cores). TLS connections have no
// receiver and so get only a part of this gain. See
// docs/decisions/0008-own-http1-transport.md.
//
// Before an idle connection is reused, it is checked without waiting. A connection
// that was closed, or that has received an unrequested answer, is dropped. If a
// reused connection stays silent until the engine ends the attempt, the other idle
// connections to its host are dropped as well.
//
// Errors name the URL without its query, user and fragment, because presigned URLs
// carry their secret there.
package httprange
