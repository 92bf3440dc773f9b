package auth

import (
	"fmt"
	"slices"
)

// V2Change is what one request of etcd's v2 API changes, and v3 would need
// several requests for: all of it happens, or nothing. One field is set.
type V2Change struct {
	Enabled *bool   `json:"enabled,omitempty"`
	User    *V2User `json:"user,omitempty"`
	Role    *V2Role `json:"role,omitempty"`
}

// V2User makes a user, or changes the one there is: with Roles it must not be
// there yet, with Grant or Revoke it must.
type V2User struct {
	Name           string   `json:"name"`
	HashedPassword string   `json:"hash,omitempty"` // as in etcd's v3 requests; empty: unchanged
	Roles          []string `json:"roles,omitempty"`
	Grant          []string `json:"grant,omitempty"`
	Revoke         []string `json:"revoke,omitempty"`
}

// V2Role makes a role that permits Perms; with Grant or Revoke it changes the one
// there is.
type V2Role struct {
	Name   string  `json:"name"`
	Perms  V2Perms `json:"perms"`
	Grant  V2Perms `json:"grant"`
	Revoke V2Perms `json:"revoke"`
}

// Empty reports whether there are no patterns.
func (p V2Perms) Empty() bool { return len(p.Read)+len(p.Write) == 0 }

// Refusal is why a V2Change is not made, in etcd's words. It wraps one of the
// errors of this package.
type Refusal struct {
	why  error
	text string
}

// Error implements error.
func (e *Refusal) Error() string { return "auth: " + e.text }

// Unwrap returns the kind of refusal.
func (e *Refusal) Unwrap() error { return e.why }

func refuse(why error, format string, args ...any) error {
	return &Refusal{why, fmt.Sprintf(format, args...)}
}

func (r *Rules) v2Change(q *V2Change) (*Rules, error) {
	switch {
	case q.User != nil:
		return r.v2User(q.User)
	case q.Role != nil:
		return r.v2Role(q.Role)
	case q.Enabled != nil && *q.Enabled:
		return r.v2Enable()
	case r.enabled:
		return r.disable(), nil
	}
	return r, refuse(ErrNotEnabled, "already disabled")
}

// v2Enable makes what etcd's v2 API takes to be there: user Root has role Root,
// and there is a Guest, who may do everything until root says otherwise.
func (r *Rules) v2Enable() (*Rules, error) {
	root := r.users[Root]
	switch {
	case r.enabled:
		return r, refuse(ErrEnabled, "already enabled")
	case root == nil:
		return r, refuse(ErrRootUserMissing, "No root user available, please create one")
	}
	n := r.next()
	if r.HasRole(Root, Root) && r.roles[Guest] != nil {
		n.revision = r.revision // who may do what is the same
	}
	changed := *root
	changed.Roles = withRoot(Root, root.Roles)
	n.users[Root] = &changed
	if n.roles[Guest] == nil {
		all := access{map[string]Perm{}, map[string]Perm{}}
		if err := all.grant(V2Perms{Read: []string{"/*"}, Write: []string{"/*"}}); err != nil {
			return r, err
		}
		n.roles[Guest] = all.role()
	}
	n.enabled = true
	return n, nil
}

func (r *Rules) v2User(q *V2User) (*Rules, error) {
	u, update := r.users[q.Name], len(q.Grant)+len(q.Revoke) > 0
	switch {
	case update && u == nil:
		return r, refuse(ErrUserNotFound, "User %s does not exist.", q.Name)
	case !update && (u == nil || len(q.Roles) > 0):
		return r.v2UserAdd(q)
	}
	return r.v2UserUpdate(q, u)
}

func (r *Rules) v2UserAdd(q *V2User) (*Rules, error) {
	switch {
	case q.Name == "":
		return r, ErrUserEmpty
	case q.HashedPassword == "":
		return r, refuse(ErrPasswordEmpty, "Cannot create user %s with an empty password", q.Name)
	case r.users[q.Name] != nil:
		return r, refuse(ErrUserExists, "User %s already exists.", q.Name)
	}
	hash, err := decodeHash(q.HashedPassword)
	if err != nil {
		return r, err
	}
	n := r.next()
	n.users[q.Name] = &User{Hash: hash, Roles: withRoot(q.Name, q.Roles)}
	return n, nil
}

// v2UserUpdate takes the roles for what they are called: one that is not there
// may be granted, as in etcd, and counts once it is.
func (r *Rules) v2UserUpdate(q *V2User, u *User) (*Rules, error) {
	roles, err := regrant(q, r.V2UserRoles(q.Name))
	if err != nil {
		return r, err
	}
	changed := &User{Hash: u.Hash, Roles: roles, NoPassword: u.NoPassword}
	switch {
	case r.enabled && q.Name == Root && !slices.Contains(roles, Root):
		return r, refuse(ErrInvalidManagement, "Cannot revoke role root from user root while auth is enabled.")
	case q.HashedPassword != "" && u.NoPassword:
		return r, refuse(ErrNoPasswordUser, "User %s is known by a certificate only and cannot get a password.", q.Name)
	case q.HashedPassword != "":
		if changed.Hash, err = decodeHash(q.HashedPassword); err != nil {
			return r, err
		}
	case slices.Equal(roles, r.V2UserRoles(q.Name)):
		return r, refuse(ErrUnchanged, "User not updated. Use grant/revoke/password to update the user.")
	}
	n := r.next()
	n.users[q.Name] = changed
	return n, nil
}

// regrant is what is left of roles, sorted, after those granted and revoked.
func regrant(q *V2User, roles []string) ([]string, error) {
	for _, role := range q.Grant {
		if slices.Contains(roles, role) {
			return nil, refuse(ErrRoleGranted, "Granting duplicate role %s for user %s", role, q.Name)
		}
		roles = append(roles, role)
	}
	for _, role := range q.Revoke {
		i := slices.Index(roles, role)
		if i < 0 {
			return nil, refuse(ErrRoleNotGranted, "Revoking ungranted role %s for user %s", role, q.Name)
		}
		roles = slices.Delete(roles, i, i+1)
	}
	slices.Sort(roles)
	return roles, nil
}

func (r *Rules) v2Role(q *V2Role) (*Rules, error) {
	role, update := r.roles[q.Name], !q.Grant.Empty() || !q.Revoke.Empty()
	switch {
	case q.Name == Root:
		return r, refuse(ErrRootRole, "Cannot modify role %s: is root role.", q.Name)
	case q.Name == "":
		return r, ErrRoleEmpty
	case update && role == nil:
		return r, refuse(ErrRoleNotFound, "Role %s does not exist.", q.Name)
	case !update && role != nil:
		return r, refuse(ErrRoleExists, "Role %s already exists.", q.Name)
	case !update:
		role = new(Role)
	}
	now := accessOf(role)
	for _, granted := range []V2Perms{unique(q.Perms), q.Grant} {
		if err := now.grant(granted); err != nil {
			return r, err
		}
	}
	now.revoke(q.Revoke)
	if update && now.same(accessOf(role)) {
		return r, refuse(ErrUnchanged, "Role not updated. Use grant/revoke to update the role.")
	}
	n := r.next()
	n.roles[q.Name] = now.role()
	return n, nil
}

// unique is each pattern once: etcd counts them when they are granted, and not
// when a role is made.
func unique(p V2Perms) V2Perms {
	once := func(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
	return V2Perms{Read: once(p.Read), Write: once(p.Write)}
}
