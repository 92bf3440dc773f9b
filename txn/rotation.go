package txn

import "encoding/json"

// Rotation is how far the cluster is in replacing its token. It knows tokens by
// their fingerprints; a secret never enters the log. The zero value: the token
// was never replaced.
type Rotation struct {
	From  string        `json:"from,omitempty"`
	To    string        `json:"to,omitempty"`
	Phase RotationPhase `json:"phase,omitempty"`
}

// RotationPhase is a phase of a Rotation.
type RotationPhase string

// Phases, in their order.
const (
	RotationNone     RotationPhase = ""
	RotationGathers  RotationPhase = "gathers"  // members fetch To; all show From
	RotationSwitched RotationPhase = "switched" // all have To, and show it; From is trusted
	RotationDone     RotationPhase = "done"     // only To is trusted
)

// RotationStep makes Now of Was; ErrRotationMoved if Was is not how far the
// cluster is.
type RotationStep struct {
	Was Rotation `json:"was"`
	Now Rotation `json:"now"`
}

// Rotation is how far the cluster is in replacing its token.
func (st *State) Rotation() Rotation { return st.rotation }

func (st *State) loadRotation(_ string, data []byte) error {
	return json.Unmarshal(data, &st.rotation)
}

func (st *State) rotate(c *RotationStep) error {
	if st.rotation != c.Was {
		return ErrRotationMoved
	}
	st.rotation = c.Now
	st.kv.SetRecord(recordRotation, "rotation", encode(c.Now))
	st.effects.Members = true
	return nil
}
