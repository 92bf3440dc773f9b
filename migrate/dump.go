package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Dumped is a line of a dump: one key. Key and value are base64, as in etcd's JSON.
type Dumped struct {
	Key            []byte `json:"key"`
	Value          []byte `json:"value"`
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
	Version        int64  `json:"version"`
	Lease          int64  `json:"lease,omitempty"`
}

// Dump writes the keys with a prefix as they are at one revision, one JSON object
// a line, and returns their number and the revision.
func Dump(ctx context.Context, from *clientv3.Client, prefix string, w io.Writer, progress Progress) (keys, rev int64, err error) {
	p := newPages(from, prefix, 0)
	enc := json.NewEncoder(w)
	for {
		kvs, err := p.next(ctx)
		if err != nil {
			return keys, 0, fmt.Errorf("read the source: %w", err)
		}
		if len(kvs) == 0 {
			return keys, p.rev, nil
		}
		for _, kv := range kvs {
			if err := enc.Encode(Dumped{kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}); err != nil {
				return keys, 0, err
			}
			keys++
		}
		if progress != nil {
			progress("writing", keys)
		}
	}
}
