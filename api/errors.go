package api

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/auth"
	"limpet/lease"
	"limpet/login"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
)

// wireErrors is the one table from what the inner packages report to what goes
// over the wire.
var wireErrors = []struct{ inner, wire error }{
	{txn.ErrCompacted, rpctypes.ErrGRPCCompacted},
	{txn.ErrFutureRev, rpctypes.ErrGRPCFutureRev},
	{txn.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
	{txn.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},
	{txn.ErrLeaseExists, rpctypes.ErrGRPCLeaseExist},
	{txn.ErrLeaseTTLTooLong, rpctypes.ErrGRPCLeaseTTLTooLarge},
	{txn.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
	{txn.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
	{txn.ErrTooManyChanges, rpctypes.ErrGRPCRequestTooLarge},
	{txn.ErrMemberExists, rpctypes.ErrGRPCMemberExist},
	{txn.ErrMemberNotFound, rpctypes.ErrGRPCMemberNotFound},
	{txn.ErrMemberRemoved, rpctypes.ErrGRPCMemberNotFound},
	{txn.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
	{txn.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
	{txn.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
	{auth.ErrRootUserMissing, rpctypes.ErrGRPCRootUserNotExist},
	{auth.ErrRootRoleMissing, rpctypes.ErrGRPCRootRoleNotExist},
	{auth.ErrUserExists, rpctypes.ErrGRPCUserAlreadyExist},
	{auth.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
	{auth.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
	{auth.ErrRoleExists, rpctypes.ErrGRPCRoleAlreadyExist},
	{auth.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
	{auth.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
	{auth.ErrFailed, rpctypes.ErrGRPCAuthFailed},
	{auth.ErrDenied, rpctypes.ErrGRPCPermissionDenied},
	{auth.ErrPermNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
	{auth.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
	{auth.ErrPermNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
	{auth.ErrInvalidManagement, rpctypes.ErrGRPCInvalidAuthMgmt},
	{auth.ErrNotEnabled, rpctypes.ErrGRPCAuthNotEnabled},
	{auth.ErrOldRevision, rpctypes.ErrGRPCAuthOldRevision},
	{auth.ErrInvalidToken, rpctypes.ErrGRPCInvalidAuthToken},
	{login.ErrTooMany, rpctypes.ErrGRPCRequestTooManyRequests},
	// etcd sends these two as plain errors, so they travel as Unknown.
	{auth.ErrNoPasswordUser, status.Error(codes.Unknown, "auth: authentication failed, password was given for no password user")},
	{auth.ErrVerifyOnly, status.Error(codes.Unknown, "auth: token signing attempted with verify-only key")},
	{sqlstore.ErrCompacted, rpctypes.ErrGRPCCompacted},
	{sqlstore.ErrFuture, rpctypes.ErrGRPCFutureRev},
	{sqlstore.ErrClosed, rpctypes.ErrGRPCStopped},
	{lease.ErrNotFound, rpctypes.ErrGRPCLeaseNotFound},
	// etcd sends these two as plain errors, so they travel as Unknown.
	{lease.ErrNotLeader, status.Error(codes.Unknown, "not a primary lessor")},
	{raftfsm.ErrTooManyRequests, status.Error(codes.Unknown, "etcdserver: too many requests")},
	{raftfsm.ErrNoLeader, rpctypes.ErrGRPCNoLeader},
	{raftfsm.ErrNotLeader, rpctypes.ErrGRPCNotLeader},
	{raftfsm.ErrLeaderChanged, rpctypes.ErrGRPCLeaderChanged},
	{raftfsm.ErrStopped, rpctypes.ErrGRPCStopped},
	{raftfsm.ErrUnsent, status.Error(codes.DeadlineExceeded, "context deadline exceeded")}, // etcd's raft blocks
	{raftfsm.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
	{raftfsm.ErrTimeout, rpctypes.ErrGRPCTimeout},
	// The disk's own words, with their paths, stay in the log.
	{raftfsm.ErrLogFailed, rpctypes.ErrGRPCTimeoutDueToLeaderFail},
	{errTimeout, rpctypes.ErrGRPCTimeout},
	{context.Canceled, rpctypes.ErrGRPCCanceled},
	{context.DeadlineExceeded, status.Error(codes.DeadlineExceeded, "context deadline exceeded")},
}

// errTimeout: the server's own deadline for a request passed, not the client's.
var errTimeout = errors.New("api: request timed out")

// errNotEnoughStarted travels as Unknown, as it does from etcd.
var errNotEnoughStarted = status.Error(codes.Unknown, "etcdserver: re-configuration failed due to not enough started members")

// wireError translates err; one that is a status already stays as it is.
func wireError(err error) error {
	if err == nil {
		return nil
	}
	for _, e := range wireErrors {
		if errors.Is(err, e.inner) {
			return e.wire
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

// Reason is what etcd says of err, for faces that have no codes of gRPC.
func Reason(err error) string { return status.Convert(wireError(err)).Message() }
