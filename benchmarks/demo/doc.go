// Command demo runs the main job of each Penstock package on real input, this
// machine's own Go tree, and reports the results:
//
//	image    packs the tree as an OCI image, pulls it with soci, compares every file
//	storage  puts the tree into a bucket, one leader broadcasts it to worker processes
//	dns      CoreDNS with the dnsplugin cache and stock CoreDNS, same questions
//	csi      a kubelet's calls to the CSI driver, and files read through the mount
//
// The registry and the bucket are an origin in this process; everything else is
// real: sockets, processes, mounts. It ends with one table, writes demo.json,
// and exits with 1 if any path failed. `make demo` builds the programs.
package main
