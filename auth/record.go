package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Kinds of records that keep rules.
const (
	RecordUser = "user"
	RecordRole = "role"
	RecordAuth = "auth" // one, without a name
)

// Record is one piece of the rules as it is kept; Data is JSON, nil for one that
// is gone.
type Record struct {
	Kind, Name string
	Data       []byte
}

type authRecord struct {
	Enabled  bool   `json:"enabled"`
	Revision uint64 `json:"revision"`
}

// Records lists what r keeps otherwise than before.
func (r *Rules) Records(before *Rules) []Record {
	if r == before {
		return nil
	}
	out := changed(RecordUser, before.users, r.users)
	out = append(out, changed(RecordRole, before.roles, r.roles)...)
	return append(out, Record{Kind: RecordAuth, Data: encode(authRecord{r.enabled, r.revision})})
}

// changed compares two maps whose entries never change.
func changed[T any](kind string, before, after map[string]*T) []Record {
	var out []Record
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if v := after[name]; before[name] != v {
			out = append(out, Record{kind, name, encode(v)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if after[name] == nil {
			out = append(out, Record{Kind: kind, Name: name})
		}
	}
	return out
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("auth: %T: %v", v, err)) // strings and numbers only
	}
	return data
}

// Load adds a record to rules that nobody else has seen yet.
func (r *Rules) Load(kind, name string, data []byte) error {
	var err error
	switch kind {
	case RecordUser:
		u := new(User)
		err = json.Unmarshal(data, u)
		r.users[name] = u
	case RecordRole:
		role := new(Role)
		err = json.Unmarshal(data, role)
		r.roles[name] = role
	case RecordAuth:
		var a authRecord
		err = json.Unmarshal(data, &a)
		r.enabled, r.revision = a.Enabled, a.Revision
	default:
		err = errors.New("unknown kind")
	}
	if err != nil {
		return fmt.Errorf("auth: %s record %q: %w", kind, name, err)
	}
	return nil
}
