package txn

import (
	"encoding/json"
	"fmt"
)

// Roll reads who the members are, and the cluster, from the records of a database
// that no store has open: each of them is given to it once, and those of another
// kind change nothing.
func (f *Found) Roll(kind string, data []byte) error {
	switch kind {
	case recordCluster:
		if err := json.Unmarshal(data, f); err != nil {
			return fmt.Errorf("the record of the cluster: %w", err)
		}
	case recordMember:
		m := new(Member)
		if err := json.Unmarshal(data, m); err != nil {
			return fmt.Errorf("the record of a member: %w", err)
		}
		f.Members = append(f.Members, m)
	}
	return nil
}
