package cli

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// isText reports whether b can be shown on a terminal as it is: text without
// control characters but for tabs and ends of lines.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' {
			return false
		}
	}
	return true
}

// oneLine is b in one line: text with its ends of lines as \n, else in hex as SQL
// writes it.
func oneLine(b []byte) string {
	if !isText(b) {
		return fmt.Sprintf("x'%x'", b)
	}
	return strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(string(b))
}

// words is a text of somebody else's for a table: without what could move a
// terminal's cursor.
func words(s string) string { return oneLine([]byte(s)) }

// jsonBytes is bytes in JSON: NAME if they are text, else NAME_base64.
type jsonBytes struct {
	Text   *string
	Base64 []byte
}

func newJSONBytes(b []byte) jsonBytes {
	if utf8.Valid(b) {
		s := string(b)
		return jsonBytes{Text: &s}
	}
	return jsonBytes{Base64: b}
}
