package look

// Line is one line of a history, as JSON: first one with Head, then one for each
// change, in the order in which they happened, and at last one with End. A history
// without an end is not whole; Error may say why.
type Line struct {
	Head   *Head   `json:"head,omitempty"`
	Change *Change `json:"change,omitempty"`
	End    *End    `json:"end,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Head says what a history is seen from.
type Head struct {
	Revision int64 `json:"revision"` // newest one
	Floor    int64 `json:"floor"`    // of the last compaction, -1: none
}

// Change is one version of a key.
type Change struct {
	Revision int64  `json:"revision"`
	ID       int64  `json:"id"`   // revision << 22 | position within it
	Time     int64  `json:"time"` // the proposer's clock, Unix ms; 0: unknown
	Key      []byte `json:"key"`
	Create   int64  `json:"create_revision"` // 0 in a deletion
	Version  int64  `json:"version"`         // 0: a deletion; 1: the key was created
	Lease    int64  `json:"lease,omitempty"`
	Size     int64  `json:"size"`            // bytes of the value
	Before   int64  `json:"before"`          // bytes of the value that it replaced; -1: none, or unknown
	Value    []byte `json:"value,omitempty"` // if values were asked for
}

// End is the last line of a whole history. More: there are others beyond the
// limit.
type End struct {
	More bool `json:"more"`
}

// Moment is a revision, and when it was proposed.
type Moment struct {
	Revision int64 `json:"revision"`
	Time     int64 `json:"time"` // the proposer's clock, Unix ms; 0: unknown
}

// Found is the answer to the question for a revision.
type Found struct {
	Found  *Moment `json:"found,omitempty"` // nil: history does not go back that far
	Oldest Moment  `json:"oldest"`          // where history begins
	Newest Moment  `json:"newest"`
}
