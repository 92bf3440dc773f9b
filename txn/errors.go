package txn

import "errors"

// What can be wrong with a request. api maps each to etcd's wire error.
var (
	ErrCompacted       = errors.New("txn: required revision has been compacted")
	ErrFutureRev       = errors.New("txn: required revision is a future revision")
	ErrKeyNotFound     = errors.New("txn: key not found")
	ErrLeaseNotFound   = errors.New("txn: requested lease not found")
	ErrLeaseExists     = errors.New("txn: lease already exists")
	ErrLeaseTTLTooLong = errors.New("txn: too large lease TTL")
	ErrNoSpace         = errors.New("txn: database space exceeded")
	ErrCorrupt         = errors.New("txn: corrupt cluster")
	ErrTooManyChanges  = errors.New("txn: transaction changes too many keys")
)
