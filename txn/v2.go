package txn

import (
	"limpet/sqlstore"
	"limpet/v2tree"
)

// V2 is the keyspace of etcd's v2 API as of now.
func (st *State) V2() *v2tree.View { return st.v2.View() }

func (st *State) loadV2(store *sqlstore.Store) error {
	for _, kind := range []string{v2tree.RecordNode, v2tree.RecordEvent, v2tree.RecordIndex} {
		err := store.Records(kind, func(name string, data []byte) error { return st.v2.Load(kind, name, data) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (st *State) applyV2(cmd Command) (any, error) {
	st.effects.V2 = true
	switch c := cmd.(type) {
	case *v2tree.Request:
		e, err := st.v2.Apply(c)
		if err != nil {
			return nil, err
		}
		st.effects.V2Events = append(st.effects.V2Events, e)
		return e, nil
	case *v2tree.Expire:
		st.effects.V2Events = append(st.effects.V2Events, st.v2.Expire(c.Now)...)
	}
	return nil, nil
}

// costV2 counts the value twice: in its node, and in the event that tells of it.
func costV2(r *v2tree.Request) int {
	const overhead = 512
	if !r.Adds() {
		return 0
	}
	return overhead + 2*(len(r.Path)+len(r.Value))
}
