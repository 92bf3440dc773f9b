package auth

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Guest is the role of those who ask etcd's v2 API and do not say who they are.
const Guest = "guest"

// etcd's v2 API has patterns: "/app/*" is all that begins with "/app/", "/foo"
// is that key alone. Here they are permissions as v3 has them, in the same roles:
//
//	pattern    key     end
//	/foo       /foo
//	/app/*     /app/   /app0
//	*          \0      \0
//
// A permission that is no pattern is shown as `["a", "c")`, with "..." for no
// end. By that name it can be revoked and not granted.

// V2Perms are the patterns of what a role permits, as etcd's v2 API has them.
type V2Perms struct {
	Read  []string `json:"read"`
	Write []string `json:"write"`
}

// guestGrants is the key of what nobody may in Rules.grants, whose other keys
// are strings.
type guestGrants struct{}

// V2 returns an error unless the caller may read, or write, the key path of
// etcd's v2 API; recursive is path and all that lies below. path is clean: "/",
// "/a/b"; of one that is known to be a directory, "/a/b/" is what lies below
// alone. Nobody may what the role Guest permits, if there is one.
func (r *Rules) V2(c Caller, path string, recursive, write bool) error {
	side := func(g *grants) spans { return g.read }
	if write {
		side = func(g *grants) spans { return g.write }
	}
	may := func(key, end []byte) error { return r.permits(c, key, end, side) }
	if c == (Caller{}) {
		may = func(key, end []byte) error { return r.guestMay(key, end, side) }
	}
	dir := path != "/" && strings.HasSuffix(path, "/")
	if !dir {
		if err := may([]byte(path), nil); err != nil || !recursive {
			return err
		}
	}
	below := []byte(strings.TrimSuffix(path, "/") + "/")
	return may(below, prefixEnd(below))
}

func (r *Rules) guestMay(key, end []byte, of func(*grants) spans) error {
	if !r.enabled || of(r.mergedFor(guestGrants{}, []string{Guest})).cover(key, end) {
		return nil
	}
	return ErrDenied
}

// prefixEnd is the end of the range of all keys that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := bytes.TrimRight(prefix, "\xff")
	if len(end) == 0 {
		return []byte{0}
	}
	end = slices.Clone(end)
	end[len(end)-1]++
	return end
}

// parsePattern is the permission that a pattern stands for, without its type.
func parsePattern(pattern string) (Perm, error) {
	prefix, starred := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == "", strings.HasPrefix(pattern, "["):
		return Perm{}, refuse(ErrPattern, "%q is not a pattern: give a key, or the beginning of keys and a star", pattern)
	case !starred:
		return Perm{Key: []byte(pattern)}, nil
	case prefix == "":
		return Perm{Key: []byte{0}, End: []byte{0}}, nil
	}
	return Perm{Key: []byte(prefix), End: prefixEnd([]byte(prefix))}, nil
}

// pattern is the inverse of parsePattern; what is no pattern has a name that
// parsePattern refuses.
func (p Perm) pattern() string {
	guess := string(p.Key)
	switch {
	case openEnd(p.Key) && openEnd(p.End):
		guess = "*"
	case len(p.End) > 0:
		guess += "*"
	}
	if q, err := parsePattern(guess); err == nil && utf8.ValidString(guess) && bytes.Equal(q.Key, p.Key) && bytes.Equal(q.End, p.End) {
		return guess
	}
	if openEnd(p.End) {
		return fmt.Sprintf("[%q, ...)", p.Key)
	}
	return fmt.Sprintf("[%q, %q)", p.Key, spanOf(p.Key, p.End).end)
}

// V2Role is what a role permits, sorted; false if there is none. The role Root
// is always there.
func (r *Rules) V2Role(name string) (V2Perms, bool) {
	if name == Root {
		return V2Perms{Read: []string{"/*"}, Write: []string{"/*"}}, true
	}
	role := r.roles[name]
	if role == nil {
		return V2Perms{}, false
	}
	a := accessOf(role)
	return V2Perms{Read: slices.Sorted(maps.Keys(a.read)), Write: slices.Sorted(maps.Keys(a.write))}, true
}

// V2Roles are the names of the roles, sorted, Root among them.
func (r *Rules) V2Roles() []string {
	names := append(r.Roles(), Root)
	slices.Sort(names)
	return slices.Compact(names)
}

// V2UserRoles are the roles of a user, sorted: the user Root has the role Root
// without having been granted it.
func (r *Rules) V2UserRoles(name string) []string {
	u := r.users[name]
	if u == nil {
		return nil
	}
	return withRoot(name, u.Roles)
}

// withRoot is a list of the roles of a user, sorted, to which Root belongs.
func withRoot(user string, roles []string) []string {
	roles = slices.Clone(roles)
	if user == Root {
		roles = append(roles, Root)
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// access is what a role permits to read and to write, by pattern.
type access struct{ read, write map[string]Perm }

func accessOf(role *Role) access {
	a := access{map[string]Perm{}, map[string]Perm{}}
	for _, p := range role.Perms {
		if p.Type != authpb.Permission_WRITE {
			a.read[p.pattern()] = p
		}
		if p.Type != authpb.Permission_READ {
			a.write[p.pattern()] = p
		}
	}
	return a
}

// grant adds patterns that are not there yet.
func (a access) grant(p V2Perms) error {
	for _, side := range []struct {
		name     string
		patterns []string
		has      map[string]Perm
	}{{"read", p.Read, a.read}, {"write", p.Write, a.write}} {
		for _, pattern := range side.patterns {
			if _, ok := side.has[pattern]; ok {
				return refuse(ErrPermGranted, "Granting duplicate %s permission %s", side.name, pattern)
			}
			perm, err := parsePattern(pattern)
			if err != nil {
				return err
			}
			side.has[pattern] = perm
		}
	}
	return nil
}

// revoke takes patterns away; those that are not there do not matter.
func (a access) revoke(p V2Perms) {
	for _, pattern := range p.Read {
		delete(a.read, pattern)
	}
	for _, pattern := range p.Write {
		delete(a.write, pattern)
	}
}

func (a access) same(b access) bool {
	there := func(Perm, Perm) bool { return true }
	return maps.EqualFunc(a.read, b.read, there) && maps.EqualFunc(a.write, b.write, there)
}

// role is the inverse of accessOf.
func (a access) role() *Role {
	out := new(Role)
	for pattern, p := range a.read {
		p.Type = authpb.Permission_READ
		if _, both := a.write[pattern]; both {
			p.Type = authpb.Permission_READWRITE
		}
		out.Perms = append(out.Perms, p)
	}
	for pattern, p := range a.write {
		p.Type = authpb.Permission_WRITE
		if _, both := a.read[pattern]; !both {
			out.Perms = append(out.Perms, p)
		}
	}
	slices.SortFunc(out.Perms, func(p, q Perm) int {
		if d := bytes.Compare(p.Key, q.Key); d != 0 {
			return d
		}
		return bytes.Compare(p.End, q.End)
	})
	return out
}
