package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestGateway compares the v3 API as JSON over HTTP, as a tutorial with curl goes: keys, leases, members,
// users, and what is wrong with requests.
func TestGateway(t *testing.T) {
	t.Parallel()
	pair := side.NewPair(t, subject(), proc.Flags(cheapHash))
	g := &gateway{t: t, pair: pair, tokens: make(map[string]string)}
	for _, r := range []string{
		`/v3/kv/put {"key":"Zm9v","value":"YmFy"}`,
		`/v3/kv/put {"key":"Zm9v","value":"YmFy","prev_kv":true}`,
		`/v3/kv/put {"key":"Zm9v","value":"YmFy","prevKv":true,"unknown":1}`,
		`/v3/kv/range {"key":"Zm9v"}`,
		`/v3/kv/range {"key":"bm9uZQ=="}`,
		`/v3/kv/range {"key":"AA==","range_end":"AA==","limit":"1","sort_order":"DESCEND","sort_target":1}`,
		`/v3/kv/range {}`,
		`/v3/kv/range {"key":"Zm9v","revision":"99"}`,
		`/v3/kv/range {"key":1}`,
		`/v3/kv/range {`,
		`/v3/kv/range `,
		`/v3beta/kv/range {"key":"Zm9v"}`,
		`/v3alpha/kv/range {"key":"Zm9v"}`,
		`/v3/kv/nothing {}`,
		`/v3 {}`,
		`/v3/kv/range/ {"key":"Zm9v"}`,
		`/v3//kv/range {"key":"Zm9v"}`,
		`/v3/kv/range?key=Zm9v {}`,
		`/v3/kv/range {"key":"Zm9v"} behind it`,
		`/v3/kv/range {"key":"Zm9v"}{"key":"YQ=="}`,
		`/v3/kv/range null`,
		`/v3/kv/range []`,
		`/v3/kv/range "x"`,
		`/v3/kv/range nonsense`,
		`/v3/kv/range {"key":"not base64!"}`,
		`/v3/kv/range {"key":"Zm9v","key":"YQ=="}`,
		`/v3/kv/range {"key":"Zm9v","limit":1.5}`,
		`/v3/kv/range {"key":"Zm9v","limit":"99999999999999999999"}`,
		`/v3/kv/range {"key":"Zm9v","sort_order":"SIDEWAYS"}`,
		`/v3/kv/range {"key":"Zm9v","sort_order":77}`,
		`/v3/kv/range {"key":"Zm9v","count_only":"yes"}`,
		`/v3/kv/range {"key":null,"limit":null}`,
		`/v3/kv/range {"key":{}}`,
		`/v3/kv/put {"key":"YmFk","value":"YQ=="`,
		`/v3/kv/put {"key":"YmFk","value":"YQ==","lease":"x"}`,
		`/v3/kv/put {"key":"YmFk","value":"YQ=="}} {`,
		`/v3/kv/txn {"success":[{}]}`,
		`/v3/kv/txn {"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}`,
		`/v3/kv/txn {"success":{}}`,
		`/v3/kv/txn {}`,
		`/v3/ {}`,
		`/v3/kv/txn {"compare":[{"key":"Zm9v","result":"EQUAL","target":"VALUE","value":"YmFy"}],"success":[{"request_put":{"key":"Zm9v","value":"YmF6"}}],"failure":[{"requestRange":{"key":"Zm9v"}}]}`,
		`/v3/kv/txn {"compare":[{"key":"Zm9v","result":"EQUAL","target":"VERSION","version":"9"}],"failure":[{"requestRange":{"key":"Zm9v"}}]}`,
		`/v3/kv/deleterange {"key":"Zm9v","prev_kv":true}`,
		`/v3/kv/compaction {"revision":"2"}`,
		`/v3/kv/compaction {"revision":"2"}`,
		`/v3/lease/grant {"TTL":"1000","ID":"7"}`,
		`/v3/lease/grant {"TTL":"1000","ID":"7"}`,
		`/v3/kv/put {"key":"bGVhc2Vk","lease":"7"}`,
		`/v3/lease/timetolive {"ID":"8"}`,
		`/v3/lease/leases {}`,
		`/v3/lease/keepalive {"ID":"7"}`,
		`/v3/lease/keepalive {"ID":"9"}`,
		`/v3/lease/revoke {"ID":"7"}`,
		`/v3/kv/lease/leases {}`,
		`/v3/kv/lease/revoke {"ID":"7"}`,
		`/v3/lease/grant {"ID":"21","TTL":"1000"}`,
		`/v3/lease/grant {"ID":"22","TTL":"9000000001"}`,
		`/v3/lease/keepalive {"ID":"21"}{"ID":"9"} {"ID":21}`,
		`/v3/lease/keepalive {"ID":"21"}nonsense`,
		`/v3/lease/keepalive nonsense`,
		`/v3/lease/keepalive `,
		`/v3/lock/lock {"name":"bG9jaw==","lease":"21"}`,
		`/v3/lock/lock {"name":"bG9jaw==","lease":"21"}`,
		`/v3/lock/lock {"name":"bG9jaw==","lease":"77"}`,
		`/v3/lock/lock {"name":1}`,
		`/v3/lock/unlock {"key":"bG9jay8xNQ=="}`,
		`/v3/lock/unlock {}`,
		`/v3/election/leader {"name":"ZQ=="}`,
		`/v3/election/campaign {"name":"ZQ==","value":"djE=","lease":21}`,
		`/v3/election/campaign {"name":"ZQ==","value":"djE=","lease":"77"}`,
		`/v3/election/leader {"name":"ZQ=="}`,
		`/v3/election/proclaim {"value":"djI="}`,
		`/v3/election/proclaim {"leader":{"key":"ZS8xNQ==","rev":"1"},"value":"djI="}`,
		`/v3/election/resign {}`,
		`/v3/election/resign {"leader":{"key":"ZS8xNQ==","rev":"1"}}`,
		`/v3beta/election/leader {"name":"ZQ=="}`,
		`/v3/lease/revoke {"ID":"21"}`,
		`/v3/election/leader {"name":"ZQ=="}`,
		`/v3/maintenance/alarm {}`,
		`/v3/maintenance/alarm {"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}`,
		`/v3/kv/put {"key":"Zm9v","value":"YmFy"}`,
		`/v3/lock/lock {"name":"bG9jaw=="}`,
		`/v3/maintenance/alarm {"action":"DEACTIVATE","memberID":"5","alarm":"NOSPACE"}`,
		`/v3/maintenance/transfer-leadership {"targetID":"5"}`,
		`/v3/maintenance/downgrade {"action":"ENABLE","version":"3"}`,
		`/v3/maintenance/hash {}`,
		`/v3/cluster/member/remove {"ID":"5"}`,
		`/v3/cluster/member/promote {"ID":"5"}`,
		`/v3/cluster/member/update {"ID":"5","peerURLs":["http://127.0.0.1:1"]}`,
		`/v3/cluster/member/add {"peerURLs":["nonsense"]}`,
		`/v3/cluster/member/add {}`,
		`/v3/maintenance/hashkv {}`,
		`/v3/maintenance/defragment {}`,
		`/v3/maintenance/downgrade {"action":"VALIDATE","version":"3.6"}`,
		`/v3/auth/status {}`,
		`/v3/auth/enable {}`,
		`/v3/auth/authenticate {"name":"root","password":"pw"}`,
		`/v3/auth/user/add {"name":"root","password":"pw"}`,
		`/v3/auth/user/grant {"user":"root","role":"root"}`,
		`/v3/auth/user/add {"name":"ann","password":"wonder"}`,
		`/v3/auth/role/add {"name":"app"}`,
		`/v3/auth/role/grant {"name":"app","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}`,
		`/v3/auth/user/grant {"user":"ann","role":"app"}`,
		`/v3/auth/enable {}`,
		`/v3/kv/range {"key":"YQ=="}`,
		`root: /v3/auth/authenticate {"name":"root","password":"pw"}`,
		`ann: /v3/auth/authenticate {"name":"ann","password":"wonder"}`,
		`/v3/auth/authenticate {"name":"ann","password":"pw"}`,
		`ann: /v3/kv/put {"key":"YQ==","value":"MQ=="}`,
		`ann: /v3/kv/range {"key":"YQ=="}`,
		`ann: /v3/kv/range {"key":"Yg=="}`,
		`ann: /v3/auth/user/get {"name":"ann"}`,
		`ann: /v3/auth/user/list {}`,
		`nobody: /v3/kv/range {"key":"YQ=="}`,
		`root: /v3/auth/user/list {}`,
		`root: /v3/auth/role/list {}`,
		`root: /v3/auth/role/get {"role":"app"}`,
		`root: /v3/auth/role/revoke {"role":"app","key":"YQ==","range_end":"Yg=="}`,
		`root: /v3/auth/role/delete {"role":"app"}`,
		`root: /v3/auth/user/changepw {"name":"ann","password":"other"}`,
		`ann: /v3/kv/range {"key":"YQ=="}`,
		`root: /v3/auth/user/revoke {"name":"ann","role":"app"}`,
		`root: /v3/auth/user/delete {"name":"ann"}`,
		`root: /v3/auth/disable {}`,
		`/v3/kv/range {"key":"YQ=="}`,
	} {
		g.ask(r)
	}
	big := strings.Repeat("YmFy", 1<<20)
	g.ask(`/v3/kv/put {"key":"Zm9v","value":"` + big + `"}`)
	g.ask(`/v3/kv/txn {"success":[{"request_put":{"key":"Zm9v","value":"` + big + `"}}]}`)
	g.ask(`/v3/kv/put {"nobody":"` + big + `","key":"Zm9v","value":"YmFy"}`)
	for _, path := range gatewayPaths {
		for _, method := range []string{"GET", "PUT", "DELETE", "HEAD", "PATCH"} {
			g.compare(method, path, `{"key":"Zm9v"}`, "")
		}
		if path != "/v3/watch" { // which waits on, as what it was asked before counts
			for _, body := range []string{`{`, `[]`, `"x"`, `{"header":`, `nonsense`} {
				g.compare("POST", path, body, "")
			}
		}
	}
	g.ask(`/v3/kv/range {"key":"AA==","range_end":"AA=="}`)
}

// gatewayPaths are all there are.
var gatewayPaths = strings.Fields(`
	/v3/kv/range /v3/kv/put /v3/kv/deleterange /v3/kv/txn /v3/kv/compaction /v3/watch
	/v3/lease/grant /v3/lease/revoke /v3/lease/keepalive /v3/lease/timetolive /v3/lease/leases
	/v3/kv/lease/revoke /v3/kv/lease/timetolive /v3/kv/lease/leases
	/v3/cluster/member/add /v3/cluster/member/remove /v3/cluster/member/update /v3/cluster/member/list /v3/cluster/member/promote
	/v3/maintenance/alarm /v3/maintenance/status /v3/maintenance/defragment /v3/maintenance/hash /v3/maintenance/hashkv
	/v3/maintenance/snapshot /v3/maintenance/transfer-leadership /v3/maintenance/downgrade
	/v3/auth/enable /v3/auth/disable /v3/auth/status /v3/auth/authenticate
	/v3/auth/user/add /v3/auth/user/get /v3/auth/user/list /v3/auth/user/delete /v3/auth/user/changepw /v3/auth/user/grant /v3/auth/user/revoke
	/v3/auth/role/add /v3/auth/role/get /v3/auth/role/list /v3/auth/role/delete /v3/auth/role/grant /v3/auth/role/revoke
	/v3/election/campaign /v3/election/proclaim /v3/election/leader /v3/election/observe /v3/election/resign
	/v3/lock/lock /v3/lock/unlock`)

// gateway asks both sides.
type gateway struct {
	t      *testing.T
	pair   *side.Pair
	tokens map[string]string // by caller and address
}

// ask posts "caller: path body"; a caller that authenticates has the token from then on.
func (g *gateway) ask(request string) {
	g.t.Helper()
	caller, rest, ok := strings.Cut(request, ": /")
	if !ok {
		caller, rest = "", request[1:]
	}
	path, body, _ := strings.Cut("/"+rest, " ")
	g.compare("POST", path, body, caller)
}

func (g *gateway) compare(method, path, body, caller string) {
	g.t.Helper()
	var answers []string
	for _, target := range g.pair.Targets() {
		answers = append(answers, g.answer(target.Server.Client, method, path, body, caller))
	}
	if answers[0] != answers[1] {
		g.t.Errorf("%s %s %.300s as %q:\n etcd  %s\n limpet %s", method, path, body, caller, answers[0], answers[1])
	}
}

// unlike are what two servers never share.
var unlike = regexp.MustCompile(`"(cluster_id|member_id|raft_term|hash)":("\d+"|\d+)`)

func (g *gateway) answer(at, method, path, body, caller string) string {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+at+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	login := strings.HasSuffix(path, "/authenticate")
	if caller != "" && !login {
		req.Header.Set("Authorization", cmp.Or(g.tokens[caller+at], "no token"))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		g.t.Fatal(err)
	}
	var got struct{ Token string }
	if login && json.Unmarshal(data, &got) == nil && got.Token != "" {
		g.tokens[caller+at] = got.Token
		data = bytes.ReplaceAll(data, []byte(got.Token), []byte("TOKEN"))
	}
	var plain bytes.Buffer
	if json.Compact(&plain, data) != nil { // protobuf's JSON has random spaces
		plain.Reset()
		plain.Write(data)
	}
	// protobuf's errors have one of two kinds of spaces, so that nobody relies on them.
	text := strings.ReplaceAll(plain.String(), "\u00a0", " ")
	return resp.Status + " " + resp.Header.Get("Content-Type") + " " + unlike.ReplaceAllString(text, `"$1":…`)
}
