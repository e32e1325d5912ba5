// Command image measures how an image gets from a registry onto a file system:
// penstock-pull and containerd with penstock-snapshotter, against containerd with its Go
// gunzip and with igzip, containerd with the SOCI snapshotter in its parallel mode with
// igzip, crane with tar, and one sequential GET for each layer with the standard
// library's gunzip and tar.
//
//	make bench AREA=image
//	make bench AREA=image ARGS="-image LAYOUT -disk /data"
//	make bench AREA=image ARGS=-quick
//
// The cases: a realistic image with all roots in memory (the figures that count) and on
// a disk, one dominant layer, fifty equal layers, 20,000 tiny files, and a registry that
// gives each connection little. The realistic image is an OCI image layout that is given,
// or is made of Debian packages and the Go tree; the other shapes are made of the Go tree.
// The disk should be an ext4 with a journal. Without one, ext4 looks at all recently
// removed inodes for each new file, and the round before has just removed its files.
// All of them takes some 20 minutes; with -keep FILE and -cases it can be done in pieces.
//
// The peers are built into bin/peers through the module proxy, once for each version.
// containerd and SOCI need root; SOCI's daemon needs gcc and zlib1g-dev to be built.
//
// The first argument account, containerd or plain selects the role of a contestant: it
// runs one pull and reports its cost.
package main
