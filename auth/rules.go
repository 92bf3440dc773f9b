package auth

import (
	"maps"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Root is the name of the user and of the role that may do everything.
const Root = "root"

// Rules are who may do what. They never change; all methods may be called
// concurrently.
type Rules struct {
	enabled  bool
	revision uint64 // counts changes; 1 at first
	users    map[string]*User
	roles    map[string]*Role
	grants   sync.Map // user name, or guestGrants, to *grants, merged when first asked for
}

// User is one user.
type User struct {
	Hash       []byte   `json:"hash,omitempty"` // bcrypt
	Roles      []string `json:"roles,omitempty"`
	NoPassword bool     `json:"no_password,omitempty"` // only a certificate can be this user
}

// Role is a named set of permissions, sorted by key.
type Role struct {
	Perms []Perm `json:"perms,omitempty"`
}

// Perm permits the use of a key or, with End, of the keys from Key up to End; End
// "\0" is no end.
type Perm struct {
	Type authpb.Permission_Type `json:"type"`
	Key  []byte                 `json:"key"`
	End  []byte                 `json:"end,omitempty"`
}

// NewRules returns those of an empty cluster: nobody, and nothing is checked.
func NewRules() *Rules {
	return &Rules{revision: 1, users: map[string]*User{}, roles: map[string]*Role{}}
}

// Given returns rules that another store has kept, and what they say of themselves.
func Given(enabled bool, revision uint64, users map[string]*User, roles map[string]*Role) *Rules {
	return &Rules{enabled: enabled, revision: revision, users: users, roles: roles}
}

// Enabled reports whether anything is checked.
func (r *Rules) Enabled() bool { return r.enabled }

// Revision counts the changes of users, roles and permissions.
func (r *Rules) Revision() uint64 { return r.revision }

// User returns a user, nil if there is none. It must not be changed.
func (r *Rules) User(name string) *User { return r.users[name] }

// Users lists the users by name.
func (r *Rules) Users() []string { return slices.Sorted(maps.Keys(r.users)) }

// Role returns a role, nil if there is none. It must not be changed.
func (r *Rules) Role(name string) *Role { return r.roles[name] }

// Roles lists the roles that were added, by name.
func (r *Rules) Roles() []string { return slices.Sorted(maps.Keys(r.roles)) }

// HasRole reports whether a user exists and holds a role.
func (r *Rules) HasRole(user, role string) bool {
	u := r.users[user]
	return u != nil && slices.Contains(u.Roles, role)
}

// next is a copy that is one change further.
func (r *Rules) next() *Rules {
	return &Rules{enabled: r.enabled, revision: r.revision + 1, users: maps.Clone(r.users), roles: maps.Clone(r.roles)}
}

// WirePerms are a role's permissions as etcd tells them.
func WirePerms(name string, role *Role) []*authpb.Permission {
	if name == Root {
		return []*authpb.Permission{{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}}
	}
	var out []*authpb.Permission
	for _, p := range role.Perms {
		out = append(out, &authpb.Permission{PermType: p.Type, Key: p.Key, RangeEnd: p.End})
	}
	return out
}

// TokenChange is one change of the tokens that are known: User has got Token, of
// which this is a digest. Without a token all of the user's are void, without a
// user too all there are.
type TokenChange struct {
	Token, User string
}
