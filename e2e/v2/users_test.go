package v2

import (
	"regexp"
	"testing"
)

// usersBlanks are what etcd's users move, and its two ways to write that a role has no right of a kind.
var usersBlanks = []blank{
	{regexp.MustCompile(`"(modifiedIndex|createdIndex|index)":[1-9][0-9]*`), `"$1":N`},
	{regexp.MustCompile(`/[0-9]{20}"`), `/ORDER"`},
	{regexp.MustCompile(`"(read|write)":(\[\]|null)`), `"$1":NONE`},
}

// users is /v2/auth from nothing to a cluster with rights and back. In limpet the users are those of
// the v3 API: see TestSharedUsers for what follows from that.
var users = []struct{ name, script string }{
	{"nobody yet", `
		GET /auth/enable
		GET /auth/users
		GET /auth/users/
		GET /auth/roles
		GET /auth/roles/
		GET /auth/users/nobody
		GET /auth/roles/nothing
		DELETE /auth/users/nobody
		DELETE /auth/roles/nothing
		PUT /auth/enable
		DELETE /auth/enable
		GET /auth/enable
		PUT /keys/app/x value=before
		PUT /keys/other value=before
		nobody:pw AS GET /keys/app/x`},
	{"wrong requests", `
		POST /auth/enable
		HEAD /auth/enable
		POST /auth/users
		PUT /auth/users {}
		DELETE /auth/users
		POST /auth/users/ann {"user":"ann","password":"pw"}
		HEAD /auth/users/ann
		PUT /auth/users/ann/more {"user":"ann","password":"pw"}
		GET /auth/users/ann/more
		GET /auth/roles/app/more
		PUT /auth/users/ann
		PUT /auth/users/ann {
		PUT /auth/users/ann {}
		PUT /auth/users/ann {"user":"bob","password":"pw"}
		PUT /auth/users/ann {"user":"ann"}
		PUT /auth/users/ann {"user":"ann","password":""}
		PUT /auth/users/ann {"user":"ann","password":7}
		PUT /auth/users/ann {"user":"ann","grant":["root"]}
		PUT /auth/users/ann {"user":"ann","password":"pw","roles":["root"],"grant":["root"]}
		PUT /auth/roles/app
		PUT /auth/roles/app {
		PUT /auth/roles/app {"role":"other"}
		PUT /auth/roles/app {"role":"app","permissions":{"kv":{"read":"/x"}}}
		PUT /auth/roles/app {"role":"app","grant":{"kv":{"read":["/x"]}}}
		PUT /auth/roles/app {"role":"app","permissions":{"kv":{"read":["/x"]}},"grant":{"kv":{"read":["/x"]}}}
		PUT /auth/roles/root {"role":"root","grant":{"kv":{"read":["/x"]}}}
		PUT /auth/roles/root {"role":"root"}
		DELETE /auth/roles/root
		GET /auth
		GET /auth/
		GET /auth/nothing
		GET /auth/users
		GET /auth/roles`},
	{"roles", `
		PUT /auth/roles/app {"role":"app","permissions":{"kv":{"read":["/app/*"],"write":["/app/*"]}}}
		PUT /auth/roles/app {"role":"app","permissions":{"kv":{"read":["/app/*"],"write":["/app/*"]}}}
		GET /auth/roles/app
		PUT /auth/roles/app {"role":"app","grant":{"kv":{"read":["/one"]}}}
		PUT /auth/roles/app {"role":"app","grant":{"kv":{"read":["/one"]}}}
		PUT /auth/roles/app {"role":"app","grant":{"kv":{"write":["/two","/three/*"]}}}
		PUT /auth/roles/app {"role":"app","revoke":{"kv":{"write":["/two"]}}}
		PUT /auth/roles/app {"role":"app","revoke":{"kv":{"write":["/two"]}}}
		PUT /auth/roles/app {"role":"app","grant":{"kv":{"read":["/five"]}},"revoke":{"kv":{"read":["/one"]}}}
		PUT /auth/roles/app {"role":"app","grant":{"kv":{"read":["/six"]}},"revoke":{"kv":{"read":["/six"]}}}
		GET /auth/roles/app
		PUT /auth/roles/readers {"role":"readers","permissions":{"kv":{"read":["/*"]}}}
		PUT /auth/roles/writers {"role":"writers","permissions":{"kv":{"write":["/w/*"]}}}
		PUT /auth/roles/empty {"role":"empty"}
		PUT /auth/roles/gone {"role":"gone"}
		DELETE /auth/roles/gone
		DELETE /auth/roles/gone
		GET /auth/roles/gone
		GET /auth/roles`},
	{"users", `
		PUT /auth/users/root {"user":"root","password":"pw"}
		PUT /auth/users/root {"user":"root","password":"pw"}
		GET /auth/users/root
		PUT /auth/users/ann {"user":"ann","password":"pw"}
		GET /auth/users/ann
		PUT /auth/users/ann {"user":"ann","grant":["app"]}
		PUT /auth/users/ann {"user":"ann","grant":["app"]}
		PUT /auth/users/ann {"user":"ann","grant":["readers"]}
		PUT /auth/users/ann {"user":"ann","revoke":["readers"]}
		PUT /auth/users/ann {"user":"ann","revoke":["readers"]}
		PUT /auth/users/ann {"user":"ann","password":"new"}
		PUT /auth/users/bob {"user":"bob","password":"pw","roles":["readers","writers"]}
		PUT /auth/users/carl {"user":"carl","password":"pw"}
		PUT /auth/users/dora {"user":"dora","password":"pw"}
		DELETE /auth/users/dora
		DELETE /auth/users/dora
		GET /auth/users/bob
		GET /auth/users`},
	{"enabled", `
		PUT /auth/enable
		PUT /auth/enable
		GET /auth/enable
		DELETE /auth/enable
		GET /auth/users
		GET /auth/roles
		GET /auth/users/ann
		root:pw AS GET /auth/users/ann
		root:pw AS GET /auth/roles/guest
		root:wrong AS GET /auth/users
		ann:new AS GET /auth/users
		ann:new AS GET /auth/users/ann
		ann:new AS PUT /auth/users/ann {"user":"ann","grant":["root"]}
		ann:new AS DELETE /auth/enable
		root:pw AS DELETE /auth/users/root
		root:pw AS DELETE /auth/roles/guest
		root:pw AS DELETE /auth/roles/root
		root:pw AS PUT /auth/enable
		GET /machines`},
	{"guests may do all", `
		GET /keys/app/x
		PUT /keys/guest value=1
		GET /keys?recursive=true&sorted=true
		DELETE /keys/guest
		root:wrong AS GET /keys/app/x
		nobody:pw AS GET /keys/app/x`},
	{"guests may do nothing", `
		root:pw AS PUT /auth/roles/guest {"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}
		GET /keys/app/x
		PUT /keys/app/x value=guest
		PUT /keys/app/x?prevIndex=x value=guest
		DELETE /keys/app/x
		POST /keys/app value=guest
		HEAD /keys/app/x
		GET /keys/app/x?quorum=true
		GET /keys/app/x?wait=true
		GET /keys/
		GET /keys/nothing
		PUT /keys/app/x?prevExist=false value=guest
		root:pw AS GET /keys/app/x`},
	{"users have their roles", `
		ann:new AS GET /keys/app/x
		ann:pw AS GET /keys/app/x
		ann:new AS PUT /keys/app/x value=ann
		ann:new AS PUT /keys/app/x?prevValue=ann value=ann2
		ann:new AS POST /keys/app/queue value=ann
		ann:new AS POST /keys/app value=ann
		ann:new AS POST /keys/app/ value=ann
		ann:new AS GET /keys/app/?recursive=true&sorted=true
		ann:new AS GET /keys/app/deep?recursive=true
		ann:new AS DELETE /keys/app/queue?recursive=true
		ann:new AS GET /keys/other
		ann:new AS PUT /keys/other value=ann
		ann:new AS GET /keys/five
		ann:new AS PUT /keys/five value=ann
		ann:new AS PUT /keys/three/x value=ann
		ann:new AS GET /keys/three/x
		ann:new AS GET /keys/
		ann:new AS GET /keys?recursive=true
		ann:new AS DELETE /keys/?recursive=true
		ann:new AS GET /keys/application
		bob:pw AS GET /keys/other
		bob:pw AS GET /keys/?recursive=true&sorted=true
		bob:pw AS PUT /keys/other value=bob
		bob:pw AS PUT /keys/w/1 value=bob
		bob:pw AS DELETE /keys/w/1
		carl:pw AS GET /keys/app/x
		carl:pw AS PUT /keys/app/x value=carl
		root:pw AS PUT /keys/anything value=root
		root:pw AS DELETE /keys/anything
		root:pw AS PUT /auth/users/ann {"user":"ann","revoke":["app"]}
		ann:new AS GET /keys/app/x
		root:pw AS PUT /auth/users/ann {"user":"ann","grant":["readers"],"password":"third"}
		ann:new AS GET /keys/app/x
		ann:third AS GET /keys/app/x
		root:pw AS DELETE /auth/roles/readers
		ann:third AS GET /keys/app/x
		root:pw AS DELETE /auth/users/ann
		ann:third AS GET /keys/app/x`},
	{"members are root's", `
		GET /members
		GET /members/leader
		DELETE /members/1234
		POST /members {"peerURLs":["http://127.0.0.1:1"]}
		PUT /members/1234 {"peerURLs":["http://127.0.0.1:1"]}
		bob:pw AS DELETE /members/1234
		root:wrong AS DELETE /members/1234
		root:pw AS DELETE /members/1234
		GET /stats/self/none
		GET /machines`},
	{"disabled again", `
		bob:pw AS DELETE /auth/enable
		root:pw AS DELETE /auth/enable
		root:pw AS DELETE /auth/enable
		DELETE /auth/enable
		GET /auth/enable
		GET /keys/app/x
		nobody:pw AS GET /keys/app/x
		GET /auth/roles/guest
		DELETE /auth/roles/guest
		DELETE /auth/users/root
		GET /auth/users
		GET /auth/roles
		PUT /auth/enable`},
}

// TestUsers compares /v2/auth and what it lets people do. Indexes are not compared: in etcd users are
// keys of the same store.
func TestUsers(t *testing.T) {
	t.Parallel()
	b := start(t, 1)
	b.forget = usersBlanks
	for _, part := range users {
		t.Run(part.name, func(t *testing.T) { b.on(t).script(part.script) })
	}
}
