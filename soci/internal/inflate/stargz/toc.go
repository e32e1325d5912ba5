package stargz

import (
	"encoding/json"
	"io"
)

// toc is what an index needs of a table of contents.
type toc struct {
	Entries []*struct {
		Offset int64 `json:"offset"` // of the member, in the blob; 0 for what has no content
	} `json:"entries"`
}

func decode(r io.Reader) (toc, error) {
	var t toc
	err := json.NewDecoder(r).Decode(&t)
	return t, err
}
