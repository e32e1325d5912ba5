// Command image measures how an image gets from a registry into a directory:
// penstock's pull against one sequential GET for each layer with the standard
// library's gunzip and tar, against crane with tar, and against containerd with
// its Go gunzip and with igzip.
//
//	make bench AREA=image
//	make bench AREA=image ARGS=-quick
//
// The image is this machine's Go tree in four layers of unequal size, served by
// the registry of internal/testorigin; everything lies in memory, so no disk is
// measured. What each run left is compared with the tree, file by file.
//
// The first argument ours or plain selects the role of a contestant.
package main
