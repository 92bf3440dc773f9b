package v2

import (
	"fmt"
	"strings"
	"testing"
)

// rows are the requests of etcd's v2 documentation and what follows from each rule of it.
var rows = []struct{ name, script string }{
	{"the first page of the documentation", `
		PUT /keys/message value=Hello+world
		GET /keys/message
		HEAD /keys/message
		PUT /keys/message value=Hello+etcd
		DELETE /keys/message
		GET /keys/message
		DELETE /keys/message
		PUT /keys/foo value=bar&ttl=500
		GET /keys/foo
		PUT /keys/foo value=bar&ttl=&prevExist=true
		GET /keys/foo
		PUT /keys/foo value=bar&ttl=500
		PUT /keys/foo ttl=900&refresh=true&prevExist=true
		GET /keys/foo
		PUT /keys/foo ttl=900&refresh=true
		PUT /keys/foo ttl=900&refresh=true&prevValue=bar
		PUT /keys/foo ttl=900&refresh=true&prevValue=no
		PUT /keys/foo_none ttl=900&refresh=true&prevExist=true
		PUT /keys/foo_none ttl=900&refresh=true
		PUT /keys/foo_none ttl=900&refresh=true&prevExist=false
		PUT /keys/foo ttl=900&refresh=false&value=new
		POST /keys/queue value=Job1
		POST /keys/queue value=Job2
		POST /keys/queue value=Job3&ttl=600
		POST /keys/queue dir=true
		GET /keys/queue?recursive=true&sorted=true
		GET /keys/queue?recursive=true
		GET /keys/queue
		PUT /keys/dir ttl=300&dir=true
		PUT /keys/dir ttl=300&dir=true
		GET /keys/dir`},
	{"compare and swap", `
		PUT /keys/foo value=one
		PUT /keys/foo?prevExist=false value=three
		PUT /keys/foo?prevValue=two value=three
		PUT /keys/foo?prevValue=one value=two
		PUT /keys/foo?prevIndex=1 value=three
		PUT /keys/foo?prevIndex=1&prevValue=zzz value=three
		PUT /keys/foo?prevIndex=1&prevValue=two value=three
		PUT /keys/foo?prevIndex=0 value=four
		PUT /keys/foo?prevIndex=0&prevExist=true value=five
		PUT /keys/foo?prevValue=five&prevExist=true value=six
		PUT /keys/foo?prevValue=six&prevExist=false value=seven
		PUT /keys/foo?prevValue=eight&prevExist=false value=seven
		PUT /keys/none?prevValue=eight&prevExist=false value=seven
		PUT /keys/nothing?prevValue=x value=y
		PUT /keys/nothing?prevExist=true value=y
		PUT /keys/nothing?prevExist=false value=y
		PUT /keys/nothing?prevExist=false value=y
		PUT /keys/foo?prevValue=six value=ttl&ttl=1000
		PUT /keys/foo?prevValue=ttl value=ttl
		GET /keys/foo
		PUT /keys/d?dir=true
		PUT /keys/d?prevValue=x value=y
		PUT /keys/d?prevIndex=1&dir=true
		PUT /keys/?prevValue=x value=y
		GET /keys/foo`},
	{"compare and delete", `
		PUT /keys/foo value=one
		DELETE /keys/foo?prevValue=two
		DELETE /keys/foo?prevIndex=1
		DELETE /keys/foo?prevIndex=1&prevValue=two
		DELETE /keys/foo?prevIndex=1&prevValue=one
		DELETE /keys/foo?prevValue=
		DELETE /keys/foo?prevExist=false
		PUT /keys/foo value=one
		DELETE /keys/foo?prevExist=true&prevValue=one
		DELETE /keys/foo?prevValue=one
		PUT /keys/d/x value=1
		DELETE /keys/d?prevValue=one
		DELETE /keys/d?prevIndex=7&recursive=true
		DELETE /keys/d/x?prevValue=1&recursive=true
		DELETE /keys/?prevValue=x`},
	{"directories", `
		PUT /keys/dir?dir=true
		GET /keys/dir
		PUT /keys/foo_dir/foo value=bar
		GET /keys/
		GET /keys
		GET /keys/?recursive=true
		GET /keys/?recursive=true&sorted=true
		PUT /keys/foo_dir value=x
		PUT /keys/foo_dir?dir=true value=x
		PUT /keys/foo_dir?prevExist=true value=x
		PUT /keys/foo_dir ttl=100&refresh=true
		PUT /keys/foo_dir?dir=true ttl=100&refresh=true
		PUT /keys/foo_dir?prevExist=false value=x
		PUT /keys/foo_dir/foo?dir=true
		PUT /keys/foo_dir/foo/below value=x
		PUT /keys/foo_dir/foo/below/more?dir=true
		GET /keys/foo_dir/foo/below
		DELETE /keys/foo_dir/foo/below
		PUT /keys/foo_dir/foo/below?prevExist=true value=x
		POST /keys/foo_dir/foo value=x
		DELETE /keys/foo_dir
		DELETE /keys/foo_dir?dir=false
		DELETE /keys/foo_dir?dir=true
		DELETE /keys/foo_dir?recursive=true
		DELETE /keys/dir
		DELETE /keys/dir?dir=true
		DELETE /keys/dir?dir=true
		PUT /keys/file value=1
		DELETE /keys/file?dir=true
		PUT /keys/file value=1
		DELETE /keys/file?recursive=true
		PUT /keys/newdir?dir=true value=ignored
		PUT /keys/newdir/a?dir=true
		PUT /keys/newdir/a/b?dir=true&prevExist=false
		PUT /keys/newdir/a/b/c/d/e value=deep
		GET /keys/newdir?recursive=true&sorted=true
		GET /keys/newdir?recursive=false&sorted=false
		GET /keys/newdir/a/b/c/d/e?recursive=true
		GET /keys/newdir/a/x/c
		DELETE /keys/newdir?recursive=true&dir=false`},
	{"the root", `
		PUT /keys/ value=x
		PUT /keys value=x
		PUT /keys/?dir=true
		PUT /keys/?prevExist=true value=x
		PUT /keys/?prevExist=false value=x
		PUT /keys/?prevIndex=3 value=x
		PUT /keys/?ttl=100&refresh=true
		DELETE /keys/
		DELETE /keys/?dir=true
		DELETE /keys/?recursive=true
		DELETE /keys/?prevIndex=3
		POST /keys value=in+order
		POST /keys/ value=in+order
		GET /keys?sorted=true
		HEAD /keys`},
	{"hidden keys", `
		PUT /keys/_message value=hidden
		PUT /keys/message value=seen
		PUT /keys/dir/_hidden/x value=1
		PUT /keys/dir/seen/_y value=1
		PUT /keys/_dir/x value=1
		PUT /keys/_dir/_y value=1
		GET /keys/
		GET /keys/?recursive=true
		GET /keys/_message
		GET /keys/dir?recursive=true
		GET /keys/dir/_hidden
		GET /keys/_dir?recursive=true&sorted=true
		POST /keys/_queue value=1
		GET /keys/_queue
		DELETE /keys/dir?dir=true
		DELETE /keys/dir?recursive=true
		DELETE /keys/_dir?recursive=true`},
	{"paths", `
		PUT /keys/a/ value=1
		GET /keys/a
		GET /keys/a/
		PUT /keys//b value=1
		PUT /keys/c//d value=1
		PUT /keys/c/./e value=1
		PUT /keys/c/../f value=1
		GET /keys/../keys/a
		PUT /keys/%2Fg value=1
		PUT /keys/h%2Fi value=1
		PUT /keys/with%20space value=1
		PUT /keys/%C3%A9t%C3%A9 value=1
		PUT /keys/%FF%FE value=1
		PUT /keys/less%3Cmore%3E%26 value=%3C%26%3E
		PUT /keys/q%3Fmark value=1
		PUT /keys/hash%23 value=1
		PUT /keys/1/x value=1
		PUT /keys/%00 value=1
		PUT /keys/. value=1
		PUT /keys/.. value=1
		PUT /keys/... value=1
		GET /keysx
		GET /keys?recursive=true&sorted=true
		GET /
		GET /nothing
		GET //
		GET //nothing
		GET //v2
		GET //v1/keys/a`},
	{"no value on success", `
		PUT /keys/n?noValueOnSuccess=true value=1
		PUT /keys/n?noValueOnSuccess=true value=2
		PUT /keys/n?noValueOnSuccess=true&prevExist=true value=3
		PUT /keys/n?noValueOnSuccess=true&prevValue=3 value=4
		PUT /keys/n?noValueOnSuccess=true&prevValue=3 value=4
		PUT /keys/m?noValueOnSuccess=true&prevExist=false value=4
		POST /keys/o?noValueOnSuccess=true value=4
		GET /keys/n?noValueOnSuccess=true
		PUT /keys/d?noValueOnSuccess=true&dir=true
		DELETE /keys/n?noValueOnSuccess=true&prevValue=4
		DELETE /keys/m?noValueOnSuccess=true
		PUT /keys/n?noValueOnSuccess=maybe value=1`},
	{"reads", `
		PUT /keys/r/b value=1
		PUT /keys/r/a value=2
		GET /keys/r?quorum=true&sorted=true
		GET /keys/r?quorum=true&recursive=true&sorted=true
		GET /keys/r?quorum=true&wait=true&sorted=true
		GET /keys/none?quorum=true
		HEAD /keys/r?quorum=true
		HEAD /keys/none
		HEAD /keys/r?wait=true
		HEAD /keys/none?recursive=maybe
		GET /keys/r/a?value=ignored&ttl=7&prevExist=true&prevValue=x&prevIndex=9&dir=true
		GET /keys/r/a?refresh=true
		GET /keys/r/a?refresh=true&ttl=5
		GET /keys/r/a?stream=true
		GET /keys/r/a?unknown=1
		GET /keys/r/a value=of+a+body`},
	{"values", `
		PUT /keys/v
		PUT /keys/v value=
		PUT /keys/v?value=query
		PUT /keys/v?value=query value=body
		PUT /keys/v value=one&value=two
		PUT /keys/v?prevValue=one&prevValue=two value=one
		PUT /keys/v?ttl=100&ttl=x value=one
		PUT /keys/v?dir=false&dir=true value=one
		PUT /keys/v value=%E2%82%AC+%22quoted%22+%5C+%0A+tab%09
		PUT /keys/v value=%FF%FE%00
		GET /keys/v
		PUT /keys/v value=%E2%80%A8
		PUT /keys/v VALUE=upper
		PUT /keys/v value
		PUT /keys/v =value
		PUT /keys/v value=a;b
		PUT /keys/v value=%zz
		PUT /keys/v?value=a;b
		PUT /keys/v?value=%zz
		GET /keys/v`},
	{"bad fields", badFields()},
	{"methods", `
		PATCH /keys/a value=1
		OPTIONS /keys/a
		TRACE /keys/a
		put /keys/a value=1
		PATCH /machines
		HEAD /machines
		GET /machines
		GET /machines/
		POST /machines value=1
		POST /stats/self
		PUT /stats/store
		DELETE /stats/leader
		HEAD /stats/store
		GET /stats
		GET /stats/
		GET /stats/none
		GET /stats/self/
		OPTIONS /members
		GET /keys/a`},
}

// badFields gives every parameter every value that could be wrong with it, on a method that changes
// something and on one that reads.
func badFields() string {
	var script strings.Builder
	for _, field := range []string{
		"prevIndex", "waitIndex", "recursive", "sorted", "wait", "dir", "quorum", "stream", "prevValue",
		"noValueOnSuccess", "ttl", "prevExist", "refresh",
	} {
		for _, value := range []string{"", "x", "-1", "1.5", "+1", "0x1", "2", "TRUE", "tRUE", "yes", "18446744073709551616", "%20"} {
			method := "PUT"
			if field == "waitIndex" || field == "sorted" || field == "stream" {
				method = "DELETE"
			}
			fmt.Fprintf(&script, "%s /keys/bad/%s?%s=%s value=1\n", method, field, field, value)
			fmt.Fprintf(&script, "%s /keys/bad/body-%s %s=%s\n", method, field, field, value)
		}
	}
	return script.String() + `
		PUT /keys/bad/x?wait=true value=1
		DELETE /keys/bad/x?wait=true
		POST /keys/bad/x?wait=true value=1
		PUT /keys/bad/x?refresh=true&ttl=5 value=1
		PUT /keys/bad/x?refresh=true value=1
		PUT /keys/bad/x?refresh=true
		PUT /keys/bad/x?refresh=true&ttl=
		PUT /keys/bad/x?refresh=true&value=&ttl=100
		POST /keys/bad/x?refresh=true&ttl=100
		POST /keys/bad/y?prevExist=true value=1
		POST /keys/bad/y?prevIndex=9&prevValue=x value=1
		POST /keys/bad/y?recursive=true&dir=true value=1
		PUT /keys/bad/y?recursive=true value=1
		PUT /keys/bad/x?prevIndex=x&recursive=x value=1
		PUT /keys/bad/x?prevValue=&ttl=x&prevExist=x value=1
		GET /keys/bad?recursive=true&sorted=true`
}

// TestRows sends the documentation's requests to both. What one chapter leaves, the next one finds.
func TestRows(t *testing.T) {
	t.Parallel()
	b := start(t, 1)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) { b.on(t).script(row.script) })
	}
	t.Run("content types", func(t *testing.T) { contentTypes(b.on(t)) })
	t.Run("large values", func(t *testing.T) { largeValues(b.on(t)) })
	t.Run("what is left", func(t *testing.T) { b.on(t).ask("GET /keys?recursive=true&sorted=true") })
}

// contentTypes sends one form as what it is and as what it is not. A form of another type is not read.
func contentTypes(b *beside) {
	b.t.Helper()
	multipart := "--x\r\nContent-Disposition: form-data; name=\"value\"\r\n\r\npart\r\n--x--\r\n"
	for _, r := range []request{
		{kind: "", body: "value=plain"},
		{kind: form, body: "value=form"},
		{kind: form + "; charset=utf-8", body: "value=charset"},
		{kind: "Application/X-WWW-Form-Urlencoded", body: "value=capital"},
		{kind: form + ", " + form, body: "value=twice"},
		{kind: form + ";", body: "value=semicolon"},
		{kind: "text/plain", body: "value=text"},
		{kind: "application/json", body: `{"value":"json"}`},
		{kind: "nonsense/", body: "value=nonsense"},
		{kind: ";", body: "value=nothing"},
		{kind: `multipart/form-data; boundary=x`, body: multipart},
		{kind: `multipart/form-data`, body: multipart},
		{kind: `multipart/form-data; boundary=x`, body: "no parts"},
	} {
		for _, method := range []string{"PUT", "POST", "DELETE"} {
			r.method, r.path = method, "/keys/types/"+method
			b.compare(r)
		}
	}
	b.ask("GET /keys/types?recursive=true&sorted=true")
}

// largeValues are within what both take. A value beyond --max-request-bytes is limpet's affair.
func largeValues(b *beside) {
	b.t.Helper()
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.ask("PUT /keys/large value=" + strings.Repeat("x", size))
		b.ask("GET /keys/large")
	}
	b.ask("PUT /keys/large?prevValue=" + strings.Repeat("y", 4000) + " value=small")
	b.ask("PUT /keys/large value=small")
}
