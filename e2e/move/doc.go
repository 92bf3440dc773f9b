// Package move asks one question: does what others have kept come into limpet, and out of it, whole?
//
// It holds tests only. Real kines and etcds make the data, as child processes; limpet import and limpet
// export move it; real clients compare what both sides say.
package move
