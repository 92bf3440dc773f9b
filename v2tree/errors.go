package v2tree

// Code is one of etcd's numbers for errors of the v2 API (v2error/error.go).
type Code int

// The codes that are used. Clients match on the numbers.
const (
	KeyNotFound       Code = 100
	CompareFailed     Code = 101
	NotFile           Code = 102
	NotDir            Code = 104
	NodeExists        Code = 105
	RootReadOnly      Code = 107
	DirNotEmpty       Code = 108
	Unauthorized      Code = 110
	PrevValueRequired Code = 201
	TTLNotANumber     Code = 202
	IndexNotANumber   Code = 203
	InvalidField      Code = 209
	InvalidForm       Code = 210
	RefreshValue      Code = 211
	RefreshWithoutTTL Code = 212
	RaftInternal      Code = 300
	LeaderElect       Code = 301
	EventIndexCleared Code = 401
)

var messages = map[Code]string{
	KeyNotFound:       "Key not found",
	CompareFailed:     "Compare failed",
	NotFile:           "Not a file",
	NotDir:            "Not a directory",
	NodeExists:        "Key already exists",
	RootReadOnly:      "Root is read only",
	DirNotEmpty:       "Directory not empty",
	Unauthorized:      "The request requires user authentication",
	PrevValueRequired: "PrevValue is Required in POST form",
	TTLNotANumber:     "The given TTL in POST form is not a number",
	IndexNotANumber:   "The given index in POST form is not a number",
	InvalidField:      "Invalid field",
	InvalidForm:       "Invalid POST form",
	RefreshValue:      "Value provided on refresh",
	RefreshWithoutTTL: "A TTL must be provided on refresh",
	RaftInternal:      "Raft Internal Error",
	LeaderElect:       "During Leader Election",
	EventIndexCleared: "The event in requested index is outdated and cleared",
}

// Error is a refusal as etcd's v2 API tells it. Its JSON is the body of the
// answer.
type Error struct {
	Code    Code   `json:"errorCode"`
	Message string `json:"message"`
	Cause   string `json:"cause,omitempty"`
	Index   uint64 `json:"index"` // of the tree; 0 if it was not asked
}

// NewError returns an error with the message that belongs to its code.
func NewError(code Code, cause string, index uint64) *Error {
	return &Error{Code: code, Message: messages[code], Cause: cause, Index: index}
}

// Error implements error.
func (e *Error) Error() string { return e.Message + " (" + e.Cause + ")" }
