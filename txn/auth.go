package txn

import (
	"fmt"
	"slices"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/v2tree"
)

// Rules are who may do what, as of now.
func (st *State) Rules() *auth.Rules { return st.rules }

func (st *State) loadRules(store *sqlstore.Store) error {
	for _, kind := range []string{auth.RecordUser, auth.RecordRole, auth.RecordAuth} {
		err := store.Records(kind, func(name string, data []byte) error { return st.rules.Load(kind, name, data) })
		if err != nil {
			return err
		}
	}
	return nil
}

// permit is the guard before any change: what the caller may do (etcd's auth
// applier).
func (st *State) permit(c auth.Caller, cmd Command) error {
	return Permit(st.rules, c, cmd, st.kv.View().Store())
}

// Permit returns an error unless the caller may do a command. What is not named
// here the API has checked, or the cluster does by itself.
func Permit(rules *auth.Rules, c auth.Caller, cmd Command, store *sqlstore.Store) error {
	if !rules.Enabled() {
		return nil
	}
	keys := func(lease int64) []string { return leaseKeys(store, lease) }
	switch q := cmd.(type) {
	case *pb.PutRequest:
		return rules.Put(c, q, keys)
	case *pb.DeleteRangeRequest:
		return rules.Delete(c, q)
	case *pb.TxnRequest:
		return rules.Txn(c, q, keys)
	case *pb.LeaseRevokeRequest:
		return rules.Lease(c, keys(q.ID))
	case *v2tree.Request:
		return rules.V2(c, q.Key(), q.Recursive, true)
	case *pb.AuthEnableRequest, *pb.AuthDisableRequest,
		*pb.AuthUserAddRequest, *pb.AuthUserDeleteRequest, *pb.AuthUserChangePasswordRequest,
		*pb.AuthUserGrantRoleRequest, *pb.AuthUserRevokeRoleRequest,
		*pb.AuthRoleAddRequest, *pb.AuthRoleDeleteRequest,
		*pb.AuthRoleGrantPermissionRequest, *pb.AuthRoleRevokePermissionRequest, *auth.V2Change:
		return rules.Admin(c)
	}
	return nil
}

func leaseKeys(store *sqlstore.Store, lease int64) []string {
	keys := store.LeaseKeys(lease)
	slices.Sort(keys)
	return keys
}

// login gives a simple token to a user whose password was right while the rules
// were as they still are.
func (st *State) login(c auth.Caller, l *Login, index uint64) (*pb.AuthenticateResponse, error) {
	u := st.rules.User(c.User)
	switch {
	case !st.rules.Enabled():
		return nil, auth.ErrNotEnabled
	case c.Revision != st.rules.Revision():
		return nil, auth.ErrOldRevision
	case u == nil || u.NoPassword:
		return nil, auth.ErrFailed
	}
	token := l.Digest + "." + strconv.FormatUint(index, 10)
	st.effects.Tokens = append(st.effects.Tokens, auth.TokenChange{Token: token, User: c.User})
	return &pb.AuthenticateResponse{Header: st.header(), Token: token}, nil
}

func (st *State) applyRules(cmd Command) (any, error) {
	next, err := st.rules.Change(cmd)
	if err != nil {
		return nil, err
	}
	for _, r := range next.Records(st.rules) {
		if r.Data == nil {
			st.kv.DeleteRecord(r.Kind, r.Name)
		} else {
			st.kv.SetRecord(r.Kind, r.Name, r.Data)
		}
	}
	st.effects.Rules = st.effects.Rules || next != st.rules
	change := RulesChange{Before: st.rules, After: next}
	st.rules = next
	if v2, ok := cmd.(*auth.V2Change); ok {
		st.voidTokens(v2, change)
		return &change, nil
	}
	return st.rulesAnswer(cmd), nil
}

// RulesChange is the response to an auth.V2Change.
type RulesChange struct{ Before, After *auth.Rules }

// voidTokens ends the tokens that a change through v2 leaves without ground.
func (st *State) voidTokens(v2 *auth.V2Change, c RulesChange) {
	switch {
	case v2.User != nil && v2.User.HashedPassword != "" && c.Before.User(v2.User.Name) != nil:
		st.effects.Tokens = append(st.effects.Tokens, auth.TokenChange{User: v2.User.Name})
	case c.Before.Enabled() && !c.After.Enabled():
		st.effects.Tokens = append(st.effects.Tokens, auth.TokenChange{})
	}
}

// rulesAnswer is etcd's response to a change of rules. Tokens of users that are
// not who they were are void.
func (st *State) rulesAnswer(cmd Command) any {
	h := st.header()
	void := func(user string) { st.effects.Tokens = append(st.effects.Tokens, auth.TokenChange{User: user}) }
	switch c := cmd.(type) {
	case *pb.AuthEnableRequest:
		return &pb.AuthEnableResponse{Header: h}
	case *pb.AuthDisableRequest:
		void("")
		return &pb.AuthDisableResponse{Header: h}
	case *pb.AuthUserAddRequest:
		return &pb.AuthUserAddResponse{Header: h}
	case *pb.AuthUserDeleteRequest:
		void(c.Name)
		return &pb.AuthUserDeleteResponse{Header: h}
	case *pb.AuthUserChangePasswordRequest:
		void(c.Name)
		return &pb.AuthUserChangePasswordResponse{Header: h}
	case *pb.AuthUserGrantRoleRequest:
		return &pb.AuthUserGrantRoleResponse{Header: h}
	case *pb.AuthUserRevokeRoleRequest:
		return &pb.AuthUserRevokeRoleResponse{Header: h}
	case *pb.AuthRoleAddRequest:
		return &pb.AuthRoleAddResponse{Header: h}
	case *pb.AuthRoleDeleteRequest:
		return &pb.AuthRoleDeleteResponse{Header: h}
	case *pb.AuthRoleGrantPermissionRequest:
		return &pb.AuthRoleGrantPermissionResponse{Header: h}
	case *pb.AuthRoleRevokePermissionRequest:
		return &pb.AuthRoleRevokePermissionResponse{Header: h}
	}
	panic(fmt.Sprintf("txn: command %T has an encoding but no meaning", cmd))
}
