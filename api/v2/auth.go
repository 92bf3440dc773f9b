package v2

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	slashpath "path"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/auth"
	"limpet/login"
	"limpet/txn"
)

const (
	authPath   = "/v2/auth"
	usersPath  = authPath + "/users"
	rolesPath  = authPath + "/roles"
	enablePath = authPath + "/enable"
)

// role is one as it is asked for and shown (etcd v2auth.Role).
type role struct {
	Role        string       `json:"role"`
	Permissions permissions  `json:"permissions"`
	Grant       *permissions `json:"grant,omitempty"`
	Revoke      *permissions `json:"revoke,omitempty"`
}

type permissions struct {
	KV auth.V2Perms `json:"kv"`
}

// perms is what is in p, which may be nil.
func (p *permissions) perms() auth.V2Perms {
	if p == nil {
		return auth.V2Perms{}
	}
	return p.KV
}

// user is one as it is asked for and shown (etcd v2auth.User).
type user struct {
	User     string   `json:"user"`
	Password string   `json:"password,omitempty"`
	Roles    []string `json:"roles"`
	Grant    []string `json:"grant,omitempty"`
	Revoke   []string `json:"revoke,omitempty"`
}

// userWithRoles is how one is shown that was asked for.
type userWithRoles struct {
	User  string `json:"user"`
	Roles []role `json:"roles,omitempty"`
}

// showRole shows a role; false if there is none. One that permits nothing is shown
// as it was made, without lists.
func showRole(rules *auth.Rules, name string) (role, bool) {
	perms, ok := rules.V2Role(name)
	if !perms.Empty() {
		perms = auth.V2Perms{Read: list(perms.Read), Write: list(perms.Write)}
	}
	return role{Role: name, Permissions: permissions{perms}}, ok
}

// named is the part of a path behind base that names a user or a role; "" is all of
// them. A path of more parts is answered.
func named(w http.ResponseWriter, r *http.Request, base string) (string, bool) {
	below := strings.Trim(strings.TrimPrefix(slashpath.Clean(r.URL.Path), base), "/")
	if strings.Contains(below, "/") {
		writeMessage(w, http.StatusBadRequest, "Invalid path")
		return "", false
	}
	return below, true
}

// begin lets root through and begins the answer.
func (f *Face) begin(w http.ResponseWriter, r *http.Request) (auth.Caller, bool) {
	c, ok := f.root(w, r)
	if ok {
		f.beginAuth(w)
	}
	return c, ok
}

func (f *Face) beginAuth(w http.ResponseWriter) {
	f.sign(w)
	w.Header().Set("Content-Type", "application/json")
}

// roles serves rolesPath and what is below.
func (f *Face) roles(w http.ResponseWriter, r *http.Request) {
	name, ok := named(w, r, rolesPath)
	switch {
	case !ok:
	case name == "":
		if !allow(w, r, http.MethodGet) {
			return
		}
		if _, ok := f.begin(w, r); ok {
			f.listRoles(w)
		}
	case allow(w, r, http.MethodGet, http.MethodPut, http.MethodDelete):
		if c, ok := f.begin(w, r); ok {
			f.role(w, r, c, name)
		}
	}
}

func (f *Face) listRoles(w http.ResponseWriter) {
	rules := f.cfg.Node.Rules()
	var all []role
	for _, name := range rules.V2Roles() {
		role, _ := showRole(rules, name)
		all = append(all, role)
	}
	writeJSON(w, http.StatusOK, map[string][]role{"roles": all})
}

func (f *Face) role(w http.ResponseWriter, r *http.Request, c auth.Caller, name string) {
	switch r.Method {
	case http.MethodGet:
		role, ok := showRole(f.cfg.Node.Rules(), name)
		if !ok {
			writeMessage(w, http.StatusNotFound, "auth: Role "+name+" does not exist.")
			return
		}
		writeJSON(w, http.StatusOK, role)
	case http.MethodPut:
		f.putRole(w, r, c, name)
	case http.MethodDelete:
		if name == auth.Root {
			writeMessage(w, http.StatusForbidden, "auth: Cannot modify role root: is root role.")
			return
		}
		_, err := f.propose(r, c, &pb.AuthRoleDeleteRequest{Role: name})
		if errors.Is(err, auth.ErrRoleNotFound) {
			writeMessage(w, http.StatusNotFound, "auth: Role "+name+" doesn't exist.")
		} else if err != nil {
			f.authError(w, r, err)
		}
	}
}

// putRole makes a role, or grants and revokes.
func (f *Face) putRole(w http.ResponseWriter, r *http.Request, c auth.Caller, name string) {
	var in role
	if !readJSON(w, r, &in) {
		return
	}
	if in.Role != name {
		writeMessage(w, http.StatusBadRequest, "Role JSON name does not match the name in the URL")
		return
	}
	q := &auth.V2Role{Name: name, Perms: in.Permissions.KV, Grant: in.Grant.perms(), Revoke: in.Revoke.perms()}
	update := !q.Grant.Empty() || !q.Revoke.Empty()
	if update && !q.Perms.Empty() {
		writeMessage(w, http.StatusBadRequest, "Role JSON contains both permissions and grant/revoke")
		return
	}
	change, err := f.changeRules(r, c, &auth.V2Change{Role: q})
	switch {
	case err != nil:
		f.authError(w, r, err)
	case update:
		perms, _ := change.After.V2Role(name)
		perms = auth.V2Perms{Read: list(perms.Read), Write: list(perms.Write)}
		writeJSON(w, http.StatusOK, role{Role: name, Permissions: permissions{perms}})
	default:
		writeJSON(w, http.StatusCreated, in)
	}
}

// users serves usersPath and what is below.
func (f *Face) users(w http.ResponseWriter, r *http.Request) {
	name, ok := named(w, r, usersPath)
	switch {
	case !ok:
	case name == "":
		if !allow(w, r, http.MethodGet) {
			return
		}
		if _, ok := f.begin(w, r); ok {
			f.listUsers(w)
		}
	case allow(w, r, http.MethodGet, http.MethodPut, http.MethodDelete):
		if c, ok := f.begin(w, r); ok {
			f.user(w, r, c, name)
		}
	}
}

func (f *Face) listUsers(w http.ResponseWriter) {
	rules := f.cfg.Node.Rules()
	var all []userWithRoles
	for _, name := range rules.Users() {
		u := userWithRoles{User: name}
		for _, held := range rules.V2UserRoles(name) {
			if role, ok := showRole(rules, held); ok {
				u.Roles = append(u.Roles, role)
			}
		}
		all = append(all, u)
	}
	writeJSON(w, http.StatusOK, map[string][]userWithRoles{"users": all})
}

func (f *Face) user(w http.ResponseWriter, r *http.Request, c auth.Caller, name string) {
	switch r.Method {
	case http.MethodGet:
		f.showUser(w, name)
	case http.MethodPut:
		f.putUser(w, r, c, name)
	case http.MethodDelete:
		_, err := f.propose(r, c, &pb.AuthUserDeleteRequest{Name: name})
		switch {
		case errors.Is(err, auth.ErrInvalidManagement):
			writeMessage(w, http.StatusForbidden, "auth: Cannot delete root user while auth is enabled.")
		case errors.Is(err, auth.ErrUserNotFound):
			writeMessage(w, http.StatusNotFound, "auth: User "+name+" does not exist")
		case err != nil:
			f.authError(w, r, err)
		}
	}
}

// showUser shows a user whose roles there all are, as etcd does.
func (f *Face) showUser(w http.ResponseWriter, name string) {
	rules := f.cfg.Node.Rules()
	if rules.User(name) == nil {
		writeMessage(w, http.StatusNotFound, "auth: User "+name+" does not exist.")
		return
	}
	u := userWithRoles{User: name}
	for _, held := range rules.V2UserRoles(name) {
		role, ok := showRole(rules, held)
		if !ok {
			writeMessage(w, http.StatusNotFound, "auth: Role "+held+" does not exist.")
			return
		}
		u.Roles = append(u.Roles, role)
	}
	writeJSON(w, http.StatusOK, u)
}

// putUser makes a user, or changes the password and the roles of one.
func (f *Face) putUser(w http.ResponseWriter, r *http.Request, c auth.Caller, name string) {
	var in user
	if !readJSON(w, r, &in) {
		return
	}
	switch {
	case in.User != name:
		writeMessage(w, http.StatusBadRequest, "User JSON name does not match the name in the URL")
		return
	case len(in.Roles) > 0 && len(in.Grant)+len(in.Revoke) > 0:
		writeMessage(w, http.StatusBadRequest, "User JSON contains both roles and grant/revoke")
		return
	}
	q := &auth.V2User{Name: name, Roles: in.Roles, Grant: in.Grant, Revoke: in.Revoke}
	if in.Password != "" {
		if err := login.TooLong(in.Password); err != nil {
			writeMessage(w, http.StatusBadRequest, err.Error())
			return
		}
		var err error
		if q.HashedPassword, err = f.hash(r, in.Password); err != nil {
			f.authError(w, r, err)
			return
		}
	}
	change, err := f.changeRules(r, c, &auth.V2Change{User: q})
	if err != nil {
		f.authError(w, r, err)
		return
	}
	f.showPut(w, change, in)
}

// hash takes its turn with those who log in.
func (f *Face) hash(r *http.Request, password string) (string, error) {
	ctx, cancel := f.patience(r)
	defer cancel()
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return f.cfg.Hash(ctx, host, password)
}

// showPut answers as etcd does: a user who was made is shown as asked for, with
// status 200 if that was with roles.
func (f *Face) showPut(w http.ResponseWriter, change *txn.RulesChange, in user) {
	made := change.Before.User(in.User) == nil
	out := user{User: in.User, Roles: in.Roles}
	if !made || in.User == auth.Root {
		out.Roles = list(change.After.V2UserRoles(in.User))
	}
	status := http.StatusOK
	if made && len(in.Roles) == 0 {
		status = http.StatusCreated
	}
	writeJSON(w, status, out)
}

// enable serves enablePath. Anybody may see whether authentication is enabled.
func (f *Face) enable(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodPut, http.MethodDelete) {
		return
	}
	if r.Method == http.MethodGet {
		f.beginAuth(w)
		writeJSON(w, http.StatusOK, map[string]bool{"enabled": f.cfg.Node.Rules().Enabled()})
		return
	}
	c, ok := f.begin(w, r)
	if !ok {
		return
	}
	on := r.Method == http.MethodPut
	if _, err := f.changeRules(r, c, &auth.V2Change{Enabled: &on}); err != nil {
		f.authError(w, r, err)
	}
}

func (f *Face) changeRules(r *http.Request, c auth.Caller, change *auth.V2Change) (*txn.RulesChange, error) {
	resp, err := f.propose(r, c, change)
	if err != nil {
		return nil, err
	}
	return resp.(*txn.RulesChange), nil
}

// refusals are the statuses of what package auth refuses in etcd's words.
var refusals = []struct {
	why    error
	status int
}{
	{auth.ErrEnabled, http.StatusConflict},
	{auth.ErrNotEnabled, http.StatusConflict},
	{auth.ErrRootUserMissing, http.StatusConflict},
	{auth.ErrUserExists, http.StatusConflict},
	{auth.ErrRoleExists, http.StatusConflict},
	{auth.ErrRoleGranted, http.StatusConflict},
	{auth.ErrRoleNotGranted, http.StatusConflict},
	{auth.ErrPermGranted, http.StatusConflict},
	{auth.ErrUserNotFound, http.StatusNotFound},
	{auth.ErrRoleNotFound, http.StatusNotFound},
	{auth.ErrRootRole, http.StatusForbidden},
	{auth.ErrInvalidManagement, http.StatusForbidden},
	{auth.ErrPasswordEmpty, http.StatusBadRequest},
	{auth.ErrNoPasswordUser, http.StatusBadRequest},
	{auth.ErrPattern, http.StatusBadRequest},
	{auth.ErrUnchanged, http.StatusBadRequest},
}

// authError answers a change that was not made. One that is no refusal of the
// change may be one of the caller, who was root a moment ago.
func (f *Face) authError(w http.ResponseWriter, r *http.Request, err error) {
	var no *auth.Refusal
	if !errors.As(err, &no) {
		if errors.Is(err, auth.ErrDenied) || errors.Is(err, auth.ErrUserEmpty) || errors.Is(err, auth.ErrUserNotFound) {
			writeMessage(w, http.StatusUnauthorized, noCredentials)
			return
		}
		f.fail(w, r, err)
		return
	}
	for _, known := range refusals {
		if errors.Is(no, known.why) {
			writeMessage(w, known.status, no.Error())
			return
		}
	}
	f.fail(w, r, err)
}

// readJSON reads a body; else it answers r.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	data, err := body(w, r)
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(data)).Decode(v) // what follows does not matter
	}
	if err != nil {
		writeMessage(w, http.StatusBadRequest, "Invalid JSON in request body.")
		return false
	}
	return true
}
