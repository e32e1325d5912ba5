// Command inflate measures the cost of gunzip of an image layer: the decoder
// that soci uses, klauspost's and the standard library's, and the programs that container tools
// call instead (pigz, igzip, libdeflate-gunzip).
//
//	make bench AREA=inflate
//
// The layer is a tar of this machine's Go tree, compressed by the standard
// library at its default level, in memory: once as one member, as builders write it,
// and once in small members, as in eStargz. The output is thrown away after its
// hash was compared, outside of the time measured for the programs.
//
// The first argument gunzip selects the role of a decoder in Go.
package main
