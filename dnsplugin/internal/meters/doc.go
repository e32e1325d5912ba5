// Package meters holds the metrics of the DNS cache: the families that a server
// publishes, the counters that the fast path's workers keep for themselves, and
// the histograms that add those counters to the families of CoreDNS.
package meters
