// Command inflate measures the cost of decompressing an image layer. It
// compares the decoder of soci with the decoders of klauspost/compress and the
// standard library, and with the programs that container tools call instead
// (pigz, igzip, libdeflate-gunzip).
//
//	make bench AREA=inflate
//
// The layer is a tar of this machine's Go tree, compressed in memory by the
// standard library at its default level: once as one member, as builders write
// it, and once in small members, as in eStargz. The output is discarded. The
// hash of the output of the programs is compared before the measurement.
//
// The first argument gunzip selects the role of a decoder in Go.
package main
