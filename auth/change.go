package auth

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Change returns the rules after one of etcd's requests that change them:
// AuthEnable, AuthDisable, all of users and roles, and *V2Change. Passwords come
// hashed. On error nothing has changed; r itself never does.
func (r *Rules) Change(req any) (*Rules, error) {
	switch q := req.(type) {
	case *pb.AuthEnableRequest:
		return r.enable()
	case *pb.AuthDisableRequest:
		return r.disable(), nil
	case *pb.AuthUserAddRequest:
		return r.userAdd(q)
	case *pb.AuthUserDeleteRequest:
		return r.userDelete(q)
	case *pb.AuthUserChangePasswordRequest:
		return r.changePassword(q)
	case *pb.AuthUserGrantRoleRequest:
		return r.grantRole(q)
	case *pb.AuthUserRevokeRoleRequest:
		return r.revokeRole(q)
	case *pb.AuthRoleAddRequest:
		return r.roleAdd(q)
	case *pb.AuthRoleDeleteRequest:
		return r.roleDelete(q)
	case *pb.AuthRoleGrantPermissionRequest:
		return r.grantPermission(q)
	case *pb.AuthRoleRevokePermissionRequest:
		return r.revokePermission(q)
	case *V2Change:
		return r.v2Change(q)
	}
	panic(fmt.Sprintf("auth: %T changes no rules", req))
}

// enable leaves the revision: the users and what they may do are the same.
func (r *Rules) enable() (*Rules, error) {
	switch {
	case r.enabled:
		return r, nil
	case r.users[Root] == nil:
		return r, ErrRootUserMissing
	case !r.HasRole(Root, Root):
		return r, ErrRootRoleMissing
	}
	n := r.next()
	n.enabled, n.revision = true, r.revision
	return n, nil
}

func (r *Rules) disable() *Rules {
	if !r.enabled {
		return r
	}
	n := r.next()
	n.enabled = false
	return n
}

func (r *Rules) userAdd(q *pb.AuthUserAddRequest) (*Rules, error) {
	switch {
	case q.Name == "":
		return r, ErrUserEmpty
	case r.users[q.Name] != nil:
		return r, ErrUserExists
	}
	u := &User{NoPassword: q.Options.GetNoPassword()}
	if !u.NoPassword {
		var err error
		if u.Hash, err = decodeHash(q.HashedPassword); err != nil {
			return r, err
		}
	}
	n := r.next()
	n.users[q.Name] = u
	return n, nil
}

func decodeHash(s string) ([]byte, error) {
	hash, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, ErrNoPasswordUser // as etcd
	}
	return hash, nil
}

func (r *Rules) userDelete(q *pb.AuthUserDeleteRequest) (*Rules, error) {
	switch {
	case r.enabled && q.Name == Root:
		return r, ErrInvalidManagement
	case r.users[q.Name] == nil:
		return r, ErrUserNotFound
	}
	n := r.next()
	delete(n.users, q.Name)
	return n, nil
}

func (r *Rules) changePassword(q *pb.AuthUserChangePasswordRequest) (*Rules, error) {
	u := r.users[q.Name]
	if u == nil {
		return r, ErrUserNotFound
	}
	changed := &User{Roles: u.Roles, NoPassword: u.NoPassword}
	if !u.NoPassword {
		var err error
		if changed.Hash, err = decodeHash(q.HashedPassword); err != nil {
			return r, err
		}
	}
	n := r.next()
	n.users[q.Name] = changed
	return n, nil
}

func (r *Rules) grantRole(q *pb.AuthUserGrantRoleRequest) (*Rules, error) {
	u := r.users[q.User]
	switch {
	case u == nil:
		return r, ErrUserNotFound
	case q.Role != Root && r.roles[q.Role] == nil: // root need not be added
		return r, ErrRoleNotFound
	case slices.Contains(u.Roles, q.Role):
		return r, nil
	}
	changed := *u
	changed.Roles = append(slices.Clone(u.Roles), q.Role)
	slices.Sort(changed.Roles)
	n := r.next()
	n.users[q.User] = &changed
	return n, nil
}

// without is u lacking a role; u itself if it lacks it already.
func (u *User) without(role string) *User {
	i := slices.Index(u.Roles, role)
	if i < 0 {
		return u
	}
	changed := *u
	changed.Roles = slices.Delete(slices.Clone(u.Roles), i, i+1)
	return &changed
}

func (r *Rules) revokeRole(q *pb.AuthUserRevokeRoleRequest) (*Rules, error) {
	u := r.users[q.Name]
	switch {
	case r.enabled && q.Name == Root && q.Role == Root:
		return r, ErrInvalidManagement
	case u == nil:
		return r, ErrUserNotFound
	case !slices.Contains(u.Roles, q.Role):
		return r, ErrRoleNotGranted
	}
	n := r.next()
	n.users[q.Name] = u.without(q.Role)
	return n, nil
}

func (r *Rules) roleAdd(q *pb.AuthRoleAddRequest) (*Rules, error) {
	switch {
	case q.Name == "":
		return r, ErrRoleEmpty
	case r.roles[q.Name] != nil:
		return r, ErrRoleExists
	}
	n := r.next()
	n.roles[q.Name] = &Role{}
	return n, nil
}

func (r *Rules) roleDelete(q *pb.AuthRoleDeleteRequest) (*Rules, error) {
	switch {
	case r.enabled && q.Role == Root:
		return r, ErrInvalidManagement
	case r.roles[q.Role] == nil:
		return r, ErrRoleNotFound
	}
	n := r.next()
	delete(n.roles, q.Role)
	for name, u := range r.users {
		n.users[name] = u.without(q.Role)
	}
	return n, nil
}

func (r *Rules) grantPermission(q *pb.AuthRoleGrantPermissionRequest) (*Rules, error) {
	switch {
	case q.Perm == nil:
		return r, ErrPermNotGiven
	case !validSpan(q.Perm):
		return r, ErrInvalidManagement
	case r.roles[q.Name] == nil:
		return r, ErrRoleNotFound
	}
	perm := Perm{Type: q.Perm.PermType, Key: q.Perm.Key, End: q.Perm.RangeEnd}
	perms := slices.Clone(r.roles[q.Name].Perms)
	byKey := func(p Perm, key []byte) int { return bytes.Compare(p.Key, key) }
	// As in etcd only the first permission of that key is looked at: granted again
	// with another end, a later one is there twice, which changes nothing but what
	// RoleGet shows.
	if i, ok := slices.BinarySearchFunc(perms, perm.Key, byKey); ok && bytes.Equal(perms[i].End, perm.End) {
		perms[i] = perm
	} else {
		perms = append(perms, perm)
		slices.SortStableFunc(perms, func(a, b Perm) int { return bytes.Compare(a.Key, b.Key) })
	}
	n := r.next()
	n.roles[q.Name] = &Role{Perms: perms}
	return n, nil
}

// validSpan: a key, and an end above it, if any.
func validSpan(p *authpb.Permission) bool {
	return len(p.Key) > 0 && (len(p.RangeEnd) == 0 || bytes.Compare(p.Key, p.RangeEnd) < 0 || openEnd(p.RangeEnd))
}

func (r *Rules) revokePermission(q *pb.AuthRoleRevokePermissionRequest) (*Rules, error) {
	role := r.roles[q.Role]
	if role == nil {
		return r, ErrRoleNotFound
	}
	same := func(p Perm) bool { return bytes.Equal(p.Key, q.Key) && bytes.Equal(p.End, q.RangeEnd) }
	perms := slices.DeleteFunc(slices.Clone(role.Perms), same)
	if len(perms) == len(role.Perms) {
		return r, ErrPermNotGranted
	}
	n := r.next()
	n.roles[q.Role] = &Role{Perms: perms}
	return n, nil
}
