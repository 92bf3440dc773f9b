package v2

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"limpet/v2tree"
)

// request is METHOD TARGET [BODY], the body a form.
func request(text string) *http.Request {
	words := strings.SplitN(text, " ", 3)
	body := ""
	if len(words) > 2 {
		body = words[2]
	}
	r := httptest.NewRequest(words[0], words[1], strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

var noon = time.Unix(1_700_000_000, 0)

func TestFormsAreRead(t *testing.T) {
	const ns = 1_700_000_000_000_000_000
	for text, want := range map[string]ask{
		"GET /v2/keys":                         {path: "/"},
		"GET /v2/keys/":                        {path: "/"},
		"GET /v2/keys/a/b/":                    {path: "/a/b", slash: true},
		"GET /v2/keys/a%2Fb":                   {path: "/a/b"},
		"GET /v2/keys/a?recursive=1&sorted=T":  {path: "/a", recursive: true},
		"GET /v2/keys/a?quorum=true&wait=true": {path: "/a", quorum: true, wait: true},
		"HEAD /v2/keys/a?quorum=true":          {path: "/a"},
		"GET /v2/keys/a?wait=true&waitIndex=7&stream=true&value=x": {path: "/a", wait: true, stream: true, since: 7},
		"PUT /v2/keys/a value=v":                                   {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Value: "v"}},
		"PUT /v2/keys/a?value=query value=body":                    {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Value: "body"}},
		"PUT /v2/keys/a?value=v":                                   {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Value: "v"}},
		"PUT /v2/keys/a value=%ff%00":                              {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Value: "\xff\x00"}},
		"PUT /v2/keys/a":                                           {path: "/a", change: &v2tree.Request{Op: v2tree.Set}},
		"PUT /v2/keys/a ttl=&value=v":                              {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Value: "v"}},
		"PUT /v2/keys/a ttl=5&dir=true":                            {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Dir: true, Expires: ns + 5e9}},
		"PUT /v2/keys/a ttl=0":                                     {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Expires: ns}},
		"PUT /v2/keys/a?prevExist=true value=v":                    {path: "/a", change: &v2tree.Request{Op: v2tree.Update, Value: "v"}},
		"PUT /v2/keys/a?prevExist=false value=v":                   {path: "/a", change: &v2tree.Request{Op: v2tree.Create, Value: "v"}},
		"PUT /v2/keys/a?prevExist=false&prevValue=x":               {path: "/a", change: &v2tree.Request{Op: v2tree.Create, PrevValue: "x"}},
		"PUT /v2/keys/a?prevExist=true&prevIndex=3":                {path: "/a", change: &v2tree.Request{Op: v2tree.Swap, PrevIndex: 3}},
		"PUT /v2/keys/a?prevIndex=0":                               {path: "/a", change: &v2tree.Request{Op: v2tree.Set}},
		"PUT /v2/keys/a?prevValue=x&noValueOnSuccess=true":         {path: "/a", brief: true, change: &v2tree.Request{Op: v2tree.Swap, PrevValue: "x"}},
		"PUT /v2/keys/a refresh=true&ttl=1&prevExist=true":         {path: "/a", change: &v2tree.Request{Op: v2tree.Update, Refresh: true, Expires: ns + 1e9}},
		"PUT /v2/keys/a refresh=true&ttl=1&value=":                 {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Refresh: true, Expires: ns + 1e9}},
		"PUT /v2/keys/a refresh=false&value=v":                     {path: "/a", change: &v2tree.Request{Op: v2tree.Set, Value: "v"}},
		"POST /v2/keys/q value=v":                                  {path: "/q", change: &v2tree.Request{Op: v2tree.CreateInOrder, Value: "v"}},
		"DELETE /v2/keys/a?recursive=true&dir=true":                {path: "/a", recursive: true, change: &v2tree.Request{Op: v2tree.Delete, Recursive: true, Dir: true}},
		"DELETE /v2/keys/a?prevIndex=3":                            {path: "/a", change: &v2tree.Request{Op: v2tree.DeleteIf, PrevIndex: 3}},
		"DELETE /v2/keys/a prevIndex=3":                            {path: "/a", change: &v2tree.Request{Op: v2tree.Delete}}, // nobody reads the body of a DELETE
	} {
		if want.change != nil {
			want.change.Path, want.change.Time = want.path, ns
		}
		got, err := parse(request(text), noon)
		if err != nil || !reflect.DeepEqual(got, &want) {
			t.Errorf("%s: got %+v %+v, %v; want %+v %+v", text, got, got.change, err, want, want.change)
		}
	}
}

func TestFormsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"PUT /v2/keys/a?prevIndex=x":                `203 invalid value for "prevIndex"`,
		"PUT /v2/keys/a?prevIndex=":                 `203 invalid value for "prevIndex"`,
		"PUT /v2/keys/a?prevIndex=-1":               `203 invalid value for "prevIndex"`,
		"GET /v2/keys/a?wait=true&waitIndex=x":      `203 invalid value for "waitIndex"`,
		"GET /v2/keys/a?recursive=maybe":            `209 invalid value for "recursive"`,
		"GET /v2/keys/a?sorted=":                    `209 invalid value for "sorted"`,
		"GET /v2/keys/a?wait=2":                     `209 invalid value for "wait"`,
		"PUT /v2/keys/a dir=yes":                    `209 invalid value for "dir"`,
		"GET /v2/keys/a?quorum=yes":                 `209 invalid value for "quorum"`,
		"GET /v2/keys/a?stream=yes":                 `209 invalid value for "stream"`,
		"PUT /v2/keys/a?wait=true":                  `209 "wait" can only be used with GET requests`,
		"HEAD /v2/keys/a?wait=true":                 `209 "wait" can only be used with GET requests`,
		"PUT /v2/keys/a?prevValue=":                 `201 "prevValue" cannot be empty`,
		"PUT /v2/keys/a?noValueOnSuccess=x":         `209 invalid value for "noValueOnSuccess"`,
		"PUT /v2/keys/a ttl=-1":                     `202 invalid value for "ttl"`,
		"PUT /v2/keys/a ttl=1.5":                    `202 invalid value for "ttl"`,
		"PUT /v2/keys/a?prevExist=":                 `209 invalid value for prevExist`,
		"PUT /v2/keys/a?refresh=x":                  `209 invalid value for refresh`,
		"PUT /v2/keys/a refresh=true&ttl=1&value=v": `211 A value was provided on a refresh`,
		"PUT /v2/keys/a refresh=true":               `212 No TTL value set`,
		"PUT /v2/keys/a refresh=true&ttl=":          `212 No TTL value set`,
		"PUT /v2/keys/a?value=%zz":                  `210 invalid URL escape "%zz"`,
		"PUT /v2/keys/a value=%zz":                  `210 invalid URL escape "%zz"`,
		"PUT /v2/keys/a a;b":                        `210 invalid semicolon separator in query`,
		"PUT /v2/keys/a?prevIndex=x&recursive=x":    `203 invalid value for "prevIndex"`, // etcd's order
		"PUT /v2/keys/" + strings.Repeat("a", 9000): `210 the key is longer than 8 KiB: use a shorter one`,
		"GET /v2/keys" + strings.Repeat("/a", 128):  `210 the key has more than 128 names: use fewer directories`,
	} {
		a, err := parse(request(text), noon)
		if err == nil {
			t.Errorf("%.60s is read as %+v, want %s", text, a, want)
			continue
		}
		data, _ := json.Marshal(err.Code)
		if got := string(data) + " " + err.Cause; got != want || err.Index != 0 {
			t.Errorf("%.60s: %s, index %d; want %s, 0", text, got, err.Index, want)
		}
	}
}

// FuzzForm: whatever is sent is refused with one of etcd's codes, or can go into
// the log as it was read.
func FuzzForm(f *testing.F) {
	for _, text := range []string{"GET /v2/keys/a?wait=true", "PUT /v2/keys/a/../b value=v&ttl=5", "POST /v2/keys value=v", "DELETE /v2/keys/a?prevIndex=3"} {
		words := strings.SplitN(text+" ", " ", 3)
		path, query, _ := strings.Cut(words[1], "?")
		f.Add(words[0], path, query, []byte(words[2]))
	}
	f.Add("PUT", "/v2/keys//a/./%", "ttl=18446744073709551615&prevValue=%00", []byte("value=%ff&dir=1"))
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(string(body)))
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		a, refused := parse(r, noon)
		if refused != nil {
			if refused.Message == "" || refused.Code < v2tree.PrevValueRequired || refused.Code > v2tree.RefreshWithoutTTL {
				t.Errorf("refused with %+v, which is no code for a form", refused)
			}
			return
		}
		if (a.change != nil) != (method == http.MethodPut || method == http.MethodPost || method == http.MethodDelete) {
			t.Errorf("%s is read as %+v", method, a)
		}
		if a.change == nil {
			return
		}
		data, _ := a.change.AppendBinary(nil)
		again := new(v2tree.Request)
		if err := again.UnmarshalBinary(data); err != nil || !reflect.DeepEqual(again, a.change) {
			t.Errorf("%+v is read from the log as %+v, %v", a.change, again, err)
		}
	})
}
