package v2

import (
	"strings"
	"testing"

	"limpet/e2e/side"
)

// said is a request and what its answer must have, or must not.
type said struct {
	line   string
	status string
	with   string
	not    string
}

func tell(t *testing.T, at *side.Target, all []said) {
	t.Helper()
	for _, s := range all {
		a := parse(s.line).send(t.Context(), at)
		a.body = strings.ReplaceAll(a.body, ", ", ",") // protobuf's JSON has random spaces
		if !strings.HasPrefix(a.status, s.status) || !strings.Contains(a.body, s.with) || s.not != "" && strings.Contains(a.body, s.not) {
			t.Errorf("%s: want %s with %q, without %q, got\n%s", cut(s.line), s.status, s.with, s.not, a)
		}
	}
}

// TestApart: keys of v2 are not in v3's ranges, nor the other way round. So it is in etcd.
func TestApart(t *testing.T) {
	t.Parallel()
	for _, cluster := range found(t, 1, "--enable-v2=true").sides {
		tell(t, cluster.Member(1), []said{
			{"PUT /keys/two value=2", "201", `"key":"/two"`, ""},
			{`POST //v3/kv/range {"key":"AA==","range_end":"AA=="}`, "200", "header", "kvs"},
			{`POST //v3/kv/put {"key":"L3RocmVl","value":"Mw=="}`, "200", `"revision":"2"`, ""},
			{"GET /keys?recursive=true", "200", `"/two"`, "three"},
			{"GET /keys/three", "404", "Key not found", ""},
			{`POST //v3/kv/deleterange {"key":"AA==","range_end":"AA=="}`, "200", `"deleted":"1"`, ""},
			{"GET /keys/two", "200", `"value":"2"`, ""},
		})
	}
}

// TestSharedUsers: in limpet the users of v2 and of v3 are the same people.
func TestSharedUsers(t *testing.T) {
	needsLimpet(t)
	t.Parallel()
	tell(t, side.Found(t, subject(), 1, "--bcrypt-cost=4").Member(1), []said{
		{`PUT /auth/roles/app {"role":"app","permissions":{"kv":{"read":["/app/*","/one"],"write":["/app/*"]}}}`, "201", "", ""},
		{`PUT /auth/users/ann {"user":"ann","password":"pw","roles":["app"]}`, "20", `"ann"`, "pw"},
		{`POST //v3/auth/user/add {"name":"root","password":"pw"}`, "200", "header", ""},
		{`POST //v3/auth/user/grant {"user":"root","role":"root"}`, "200", "header", ""},
		{`POST //v3/auth/user/get {"name":"ann"}`, "200", `"roles":["app"]`, ""},
		// L2FwcC8= is /app/, and L2FwcDA= the end of what begins so; L29uZQ== is /one.
		{`POST //v3/auth/role/get {"role":"app"}`, "200", `"range_end":"L2FwcDA="`, ""},
		{`POST //v3/auth/role/get {"role":"app"}`, "200", `"key":"L29uZQ=="`, ""},
		{`POST //v3/auth/role/add {"name":"three"}`, "200", "header", ""},
		{`POST //v3/auth/role/grant {"name":"three","perm":{"permType":"WRITE","key":"L3RocmVl"}}`, "200", "header", ""},
		{`GET /auth/roles/three`, "200", `"write":["/three"]`, "read\":[\"/three"},
		{`PUT /keys/three value=0`, "201", "", ""},
		{`POST //v3/auth/enable {}`, "200", "header", ""},
		{`GET /auth/enable`, "200", `{"enabled":true}`, ""},
		// Enabled by v3, there is no role for guests.
		{`GET /keys/three`, "401", `"errorCode":110`, ""},
		{`PUT /keys/app/x value=1`, "401", `"errorCode":110`, ""},
		{`ann:pw AS PUT /keys/app/x value=1`, "201", `"/app/x"`, ""},
		{`ann:pw AS GET /keys/app/x`, "200", `"value":"1"`, ""},
		{`ann:pw AS PUT /keys/three value=1`, "401", `"errorCode":110`, ""},
		{`root:pw AS PUT /auth/users/ann {"user":"ann","grant":["three"]}`, "200", `"three"`, ""},
		{`ann:pw AS PUT /keys/three value=1`, "200", `"/three"`, ""},
		{`ann:pw AS GET /keys/three`, "401", `"errorCode":110`, ""},
		{`ann:no AS GET /keys/app/x`, "401", `"errorCode":110`, ""},
		{`root:pw AS DELETE /auth/enable`, "200", "", ""},
		{`POST //v3/auth/status {}`, "200", "header", `"enabled":true`},
	})
}

// TestRefused: what is too large, what comes while the database is full, and what leads astray.
func TestRefused(t *testing.T) {
	needsLimpet(t)
	t.Parallel()
	at := side.Found(t, subject(), 1, "--max-request-bytes=10000").Member(1)
	large := strings.Repeat("x", 20000)
	tell(t, at, []said{
		{"PUT /keys/a value=" + large, "400", `"cause":"etcdserver: request is too large"`, ""},
		{"POST /keys/a value=" + large, "400", `"errorCode":210`, ""},
		{"PUT /keys/a value=1", "201", "", ""},
		{"PUT /keys/a?prevValue=1 value=" + large, "400", `"errorCode":210`, ""},
		{`POST //v3/maintenance/alarm {"action":"ACTIVATE","alarm":"NOSPACE"}`, "200", "NOSPACE", ""},
		{"PUT /keys/b value=1", "500", `"cause":"etcdserver: mvcc: database space exceeded"`, ""},
		{"POST /keys/b value=1", "500", `"errorCode":300`, ""},
		{"GET /keys?recursive=true", "200", `"key":"/a","value":"1"`, `"/b"`},
		{"DELETE /keys/a", "200", `"action":"delete"`, ""},
		{`POST //v3/maintenance/alarm {"action":"DEACTIVATE","alarm":"NOSPACE"}`, "200", "", ""},
		{"PUT /keys/b value=1", "201", "", ""},
		// In etcd, dots lead out of the keys and into what it keeps of its members.
		{"PUT /keys/%2e%2e/%2e%2e/0/members value=1", "201", `"key":"/0/members"`, ""},
		{"GET /members", "200", `"name":"m1"`, ""},
	})
}
