package sqlstore

import "errors"

var (
	// ErrCompacted: the revision asked for is below the compaction floor.
	ErrCompacted = errors.New("sqlstore: required revision has been compacted")
	// ErrFuture: the revision asked for has not happened yet.
	ErrFuture = errors.New("sqlstore: required revision is a future revision")
	// ErrTooManyChanges: one transaction would change more than MaxChanges keys.
	ErrTooManyChanges = errors.New("sqlstore: transaction changes too many keys")
	// ErrImageRefused: the database to be adopted is damaged, foreign or older than
	// the store's. Nothing has changed.
	ErrImageRefused = errors.New("sqlstore: image refused")
	// ErrClosed: the store was closed while the call waited.
	ErrClosed = errors.New("sqlstore: store is closed")
)
