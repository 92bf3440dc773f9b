package server

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/login"
)

const (
	all     = `{"kv":{"read":["/*"],"write":["/*"]}}`
	rootR   = `{"role":"root","permissions":` + all + `}`
	guestR  = `{"role":"guest","permissions":` + all + `}`
	noCreds = `{"message":"Insufficient credentials"}`
)

// quickLogins is a member whose bcrypt costs little.
func quickLogins(t *testing.T) *member {
	t.Helper()
	cfg := newConfig(t)
	cfg.Login.Cost = login.MinCost
	return start(t, cfg)
}

func TestV2Auth(t *testing.T) {
	m := quickLogins(t)
	f := faceOf(m)
	f.play([]step{
		{"GET", "/v2/auth/enable", "", "", 200, `{"enabled":false}`},
		{"PUT", "/v2/auth/enable", "", "", 409, `{"message":"auth: No root user available, please create one"}`},
		{"DELETE", "/v2/auth/enable", "", "", 409, `{"message":"auth: already disabled"}`},
		{"GET", "/v2/auth/users", "", "", 200, `{"users":null}`},
		{"GET", "/v2/auth/users/", "", "", 200, `{"users":null}`},
		{"GET", "/v2/auth/roles", "", "", 200, `{"roles":[` + rootR + `]}`},
		{"GET", "/v2/auth/roles/root", "", "", 200, rootR},
		{"GET", "/v2/auth/users/a/b", "", "", 400, `{"message":"Invalid path"}`},
		{"PUT", "/v2/auth/users/root", "", `{"user":"root","password":"pw"}`, 201, `{"user":"root","roles":["root"]}`},
		{"GET", "/v2/auth/users", "", "", 200, `{"users":[{"user":"root","roles":[` + rootR + `]}]}`},
		{"PUT", "/v2/auth/roles/rkv", "", `{"role":"rkv","permissions":{"kv":{"read":["/app/*"],"write":["/app/*"]}}}`, 201,
			`{"role":"rkv","permissions":{"kv":{"read":["/app/*"],"write":["/app/*"]}}}`},
		{"PUT", "/v2/auth/roles/rkv", "", `{"role":"rkv","grant":{"kv":{"read":["/foo"],"write":null}},"revoke":{"kv":{"write":["/app/*"]}}}`, 200,
			`{"role":"rkv","permissions":{"kv":{"read":["/app/*","/foo"],"write":[]}}}`},
		{"PUT", "/v2/auth/roles/rkv", "", `{"role":"rkv","permissions":` + all + `,"grant":` + all + `}`, 400, `{"message":"Role JSON contains both permissions and grant/revoke"}`},
		{"PUT", "/v2/auth/roles/rkv", "", `{"role":"x"}`, 400, `{"message":"Role JSON name does not match the name in the URL"}`},
		{"PUT", "/v2/auth/roles/rkv", "", `{`, 400, `{"message":"Invalid JSON in request body."}`},
		{"PUT", "/v2/auth/roles/rkv", "", `{"role":"rkv"}`, 409, `{"message":"auth: Role rkv already exists."}`},
		{"PUT", "/v2/auth/roles/root", "", `{"role":"root"}`, 403, `{"message":"auth: Cannot modify role root: is root role."}`},
		{"PUT", "/v2/auth/roles/none", "", `{"role":"none","grant":` + all + `}`, 404, `{"message":"auth: Role none does not exist."}`},
		{"PUT", "/v2/auth/roles/bare", "", `{"role":"bare","permissions":{"kv":{"read":null,"write":null}}}`, 201, `{"role":"bare","permissions":{"kv":{"read":null,"write":null}}}`},
		{"GET", "/v2/auth/roles/bare", "", "", 200, `{"role":"bare","permissions":{"kv":{"read":null,"write":null}}}`},
		{"GET", "/v2/auth/roles/none", "", "", 404, `{"message":"auth: Role none does not exist."}`},
		{"DELETE", "/v2/auth/roles/bare", "", "", 200, ""},
		{"DELETE", "/v2/auth/roles/bare", "", "", 404, `{"message":"auth: Role bare doesn't exist."}`},
		{"DELETE", "/v2/auth/roles/root", "", "", 403, `{"message":"auth: Cannot modify role root: is root role."}`},

		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","password":"bp","roles":["rkv"]}`, 200, `{"user":"bob","roles":["rkv"]}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","password":"bp","roles":["rkv"]}`, 409, `{"message":"auth: User bob already exists."}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","grant":["rkv"]}`, 409, `{"message":"auth: Granting duplicate role rkv for user bob"}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","revoke":["other"]}`, 409, `{"message":"auth: Revoking ungranted role other for user bob"}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","roles":["a"],"grant":["b"]}`, 400, `{"message":"User JSON contains both roles and grant/revoke"}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob"}`, 400, `{"message":"auth: User not updated. Use grant/revoke/password to update the user."}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"eve"}`, 400, `{"message":"User JSON name does not match the name in the URL"}`},
		{"PUT", "/v2/auth/users/bob", "", `[]`, 400, `{"message":"Invalid JSON in request body."}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","password":"` + strings.Repeat("x", 73) + `"}`, 400, `{"message":"bcrypt: password length exceeds 72 bytes"}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","grant":["later"]}`, 200, `{"user":"bob","roles":["later","rkv"]}`},
		{"GET", "/v2/auth/users/bob", "", "", 404, `{"message":"auth: Role later does not exist."}`},
		{"PUT", "/v2/auth/users/bob", "", `{"user":"bob","revoke":["later"]}`, 200, `{"user":"bob","roles":["rkv"]}`},
		{"GET", "/v2/auth/users/bob", "", "", 200, `{"user":"bob","roles":[{"role":"rkv","permissions":{"kv":{"read":["/app/*","/foo"],"write":[]}}}]}`},
		{"PUT", "/v2/auth/users/eve", "", `{"user":"eve"}`, 400, `{"message":"auth: Cannot create user eve with an empty password"}`},
		{"PUT", "/v2/auth/users/eve", "", `{"user":"eve","password":"ep"}`, 201, `{"user":"eve","roles":null}`},
		{"GET", "/v2/auth/users/eve", "", "", 200, `{"user":"eve"}`},
		{"PUT", "/v2/auth/users/none", "", `{"user":"none","grant":["rkv"]}`, 404, `{"message":"auth: User none does not exist."}`},
		{"GET", "/v2/auth/users/nope", "", "", 404, `{"message":"auth: User nope does not exist."}`},
		{"DELETE", "/v2/auth/users/nope", "", "", 404, `{"message":"auth: User nope does not exist"}`},
		{"DELETE", "/v2/auth/users/eve", "", "", 200, ""},

		{"PUT", "/v2/auth/enable", "", "", 200, ""},
		{"GET", "/v2/auth/enable", "", "", 200, `{"enabled":true}`},
		{"PUT", "/v2/auth/enable", "root:pw", "", 409, `{"message":"auth: already enabled"}`},
		{"GET", "/v2/auth/roles/guest", "root:pw", "", 200, guestR},
		{"DELETE", "/v2/auth/users/root", "root:pw", "", 403, `{"message":"auth: Cannot delete root user while auth is enabled."}`},
		{"PUT", "/v2/auth/users/root", "root:pw", `{"user":"root","password":"pw2"}`, 200, `{"user":"root","roles":["root"]}`},
		{"GET", "/v2/auth/roles/guest", "root:pw", "", 401, noCreds},
		{"DELETE", "/v2/auth/enable", "root:pw2", "", 200, ""},
		{"GET", "/v2/auth/enable", "", "", 200, `{"enabled":false}`},
	})
	resp, err := pb.NewAuthClient(m.conn).RoleGet(t.Context(), &pb.AuthRoleGetRequest{Role: "rkv"})
	if err != nil || len(resp.Perm) != 2 || string(resp.Perm[0].Key) != "/app/" || string(resp.Perm[0].RangeEnd) != "/app0" || string(resp.Perm[1].Key) != "/foo" {
		t.Errorf("v3 sees role rkv as %v, %v", resp, err)
	}
}

// While authentication is enabled, root alone changes anything, and shows the
// right password each time; the others learn nothing from how they are refused.
func TestV2AuthIsForRoot(t *testing.T) {
	m := quickLogins(t)
	f := faceOf(m)
	f.play([]step{
		{"PUT", "/v2/auth/users/root", "", `{"user":"root","password":"pw"}`, 201, `{"user":"root","roles":["root"]}`},
		{"PUT", "/v2/auth/users/ann", "", `{"user":"ann","password":"ap"}`, 201, `{"user":"ann","roles":null}`},
		{"PUT", "/v2/auth/enable", "", "", 200, ""},
	})
	for _, as := range []string{"", "ann:ap", "root:wrong", "root:", "none:pw", ":"} {
		for _, tc := range []step{
			{method: "GET", path: "/v2/auth/users"}, {method: "GET", path: "/v2/auth/users/ann"}, {method: "GET", path: "/v2/auth/roles"},
			{method: "GET", path: "/v2/auth/roles/guest"}, {method: "PUT", path: "/v2/auth/users/ann", body: `{"user":"ann","grant":["root"]}`},
			{method: "PUT", path: "/v2/auth/users/eve", body: `{"user":"eve","password":"p"}`}, {method: "DELETE", path: "/v2/auth/users/ann"},
			{method: "PUT", path: "/v2/auth/roles/r", body: `{"role":"r"}`}, {method: "DELETE", path: "/v2/auth/roles/guest"},
			{method: "DELETE", path: "/v2/auth/enable"}, {method: "PUT", path: "/v2/auth/enable"},
			{method: "POST", path: "/v2/members", body: `{"peerURLs":["http://127.0.0.1:9"]}`},
			{method: "DELETE", path: fmt.Sprintf("/v2/members/%x", m.dir.now().member())},
			{method: "PUT", path: fmt.Sprintf("/v2/members/%x", m.dir.now().member()), body: `{"peerURLs":["http://127.0.0.1:9"]}`},
		} {
			tc.as, tc.status, tc.want = as, 401, noCreds
			f.play([]step{tc})
		}
	}
	token, err := pb.NewAuthClient(m.conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "root", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"Basic !", "Basic", token.Token, "Bearer " + token.Token} {
		w := f.ask("GET", "/v2/auth/users", "", "", func(r *http.Request) { r.Header.Set("Authorization", header) })
		if w.Code != 401 {
			t.Errorf("Authorization %.10s…: %d %s", header, w.Code, w.Body)
		}
	}
	for _, open := range []string{"/v2/members", "/v2/members/leader", "/v2/machines", "/v2/stats/self", "/v2/stats/leader", "/v2/auth/enable"} {
		for _, as := range []string{"", "ann:ap", "root:wrong"} {
			if w := f.ask("GET", open, as, ""); w.Code != 200 {
				t.Errorf("%s as %q: %d %s", open, as, w.Code, w.Body)
			}
		}
	}
	f.play([]step{{"PUT", "/v2/auth/users/ann", "root:pw", `{"user":"ann","grant":["root"]}`, 200, `{"user":"ann","roles":["root"]}`}})
	if w := f.ask("GET", "/v2/auth/users/root", "ann:ap", ""); w.Code != 200 {
		t.Errorf("ann, who is root now: %d %s", w.Code, w.Body)
	}
}

// However many guess, root gets in from elsewhere, and they do not get in at all.
func TestV2GuessesKeepNobodyOut(t *testing.T) {
	f := faceOf(quickLogins(t))
	f.play([]step{
		{"PUT", "/v2/auth/users/root", "", `{"user":"root","password":"pw"}`, 201, `{"user":"root","roles":["root"]}`},
		{"PUT", "/v2/auth/enable", "", "", 200, ""},
		{"GET", "/v2/auth/roles/root", "root:pw", "", 200, rootR},
	})
	from := func(addr string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = addr } }
	var wg sync.WaitGroup
	var refused atomic.Int64
	for range 200 {
		// Owner: this call; each ends with its answer.
		wg.Go(func() {
			switch w := f.ask("GET", "/v2/auth/users", "root:guess", "", from("192.0.2.66:1")); w.Code {
			case 401:
			case 429:
				refused.Add(1)
			default:
				t.Errorf("a guess: %d %s", w.Code, w.Body)
			}
		})
	}
	for range 20 {
		if w := f.ask("GET", "/v2/auth/users", "root:pw", "", from("192.0.2.1:1")); w.Code != 200 {
			t.Errorf("root, during the guesses: %d %s", w.Code, w.Body)
		}
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("all of 200 guesses were looked at")
	}
}

// A certificate names a user, unless a password is shown.
func TestV2CertificateUsers(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost, cfg.ClientTLS.ClientAuth = login.MinCost, true
	f := faceOf(start(t, cfg))
	f.play([]step{
		{"PUT", "/v2/auth/users/root", "", `{"user":"root","password":"pw"}`, 201, `{"user":"root","roles":["root"]}`},
		{"PUT", "/v2/auth/enable", "", "", 200, ""},
	})
	shows := func(name string) func(*http.Request) {
		return func(r *http.Request) {
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: name}}}}}
		}
	}
	for _, tc := range []struct {
		certificate, as string
		want            int
	}{{"root", "", 200}, {"nobody", "", 401}, {"root", "root:wrong", 401}, {"nobody", "root:pw", 200}} {
		if w := f.ask("GET", "/v2/auth/users", tc.as, "", shows(tc.certificate)); w.Code != tc.want {
			t.Errorf("certificate of %s, password %q: %d %s, want %d", tc.certificate, tc.as, w.Code, w.Body, tc.want)
		}
	}
}
