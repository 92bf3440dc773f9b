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
	ErrFounded         = errors.New("txn: the cluster has been founded already")
	ErrMemberExists    = errors.New("txn: member ID already exists")
	ErrMemberNotFound  = errors.New("txn: member not found")
	ErrMemberRemoved   = errors.New("txn: the member was removed")
	ErrPeerURLExists   = errors.New("txn: peer URL already exists")
	ErrTooManyLearners = errors.New("txn: too many learners")
	ErrNotLearner      = errors.New("txn: the member is not a learner")
	ErrRotationMoved   = errors.New("txn: the rotation of the token has moved on")
	ErrTooManyChanges  = errors.New("txn: transaction changes too many keys")
)
