package proxy

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// oidSetConfig is that of set_config in pg_proc.dat, for calls by number.
const oidSetConfig = 2078

// setConfigByNumber recognises a FunctionCall message that calls set_config.
func setConfigByNumber(body []byte) bool {
	return len(body) >= 4 && binary.BigEndian.Uint32(body) == oidSetConfig
}

// raiseReadOnly is sent to the server in the place of a refused text, so that
// the error comes in its turn and the transaction fails as with any other.
var raiseReadOnly = "do language plpgsql $pg0$begin raise exception using errcode = '" + errReadOnly.Code +
	"', message = '" + errReadOnly.Message + "', hint = '" + errReadOnly.Hint + "'; end$pg0$"

// refusedQuery and refusedParse replace messages.
func refusedQuery() []byte { return encode(&pgproto3.Query{String: raiseReadOnly}) }

func refusedParse(name string) []byte {
	return encode(&pgproto3.Parse{Name: name, Query: raiseReadOnly})
}

// allTokens is more than any text that fits into a message has.
const allTokens = maxLook

// switchesToWrite says whether a text would take a session out of read-only
// mode, or hides what it sets. It is a guard against mistakes: what it does not
// see, the server's report of the setting shows a moment later.
func switchesToWrite(text string) bool {
	return mayWrite(text, false)
}

func mayWrite(text string, code bool) bool {
	var statement []token
	for _, t := range append(tokens(text, allTokens), token{otherToken, ";"}) {
		if t != (token{otherToken, ";"}) {
			statement = append(statement, t)
			continue
		}
		if statementWrites(statement, code) {
			return true
		}
		statement = statement[:0]
	}
	return false
}

// statementWrites looks at one statement; code says that it is one of a DO
// block, where anything can be executed.
func statementWrites(t []token, code bool) bool {
	if len(t) == 0 {
		return false
	}
	first := t[0].text
	words := func(text string) bool { return slices.Contains(t, token{wordToken, text}) }
	switch {
	case code && words("execute"), words("update") && words("pg_settings"):
		return true
	case slices.Contains([]string{"set", "begin", "start"}, first) || code:
		if readWrite(t) || (first == "set" || code && words("set")) && setsReadOnly(t) {
			return true
		}
	case first == "do":
		for _, body := range t {
			if body.kind == stringToken && mayWrite(body.text, true) {
				return true
			}
		}
	}
	return callsSetConfig(t)
}

// readWrite finds the words READ WRITE.
func readWrite(t []token) bool {
	for i := 1; i < len(t); i++ {
		if t[i-1] == (token{wordToken, "read"}) && t[i] == (token{wordToken, "write"}) {
			return true
		}
	}
	return false
}

func isReadOnlySetting(text string) bool {
	return slices.Contains(readOnlySettings, strings.ToLower(text))
}

// setsReadOnly finds a setting of --read-only that is given anything but on.
func setsReadOnly(t []token) bool {
	for i := range t {
		if t[i].kind != wordToken || !isReadOnlySetting(t[i].text) {
			continue
		}
		if i+2 >= len(t) {
			return true
		}
		on, ok := parseBool(t[i+2].text)
		return !ok || !on
	}
	return false
}

// callsSetConfig finds calls of set_config for a setting of --read-only, or for
// one whose name is not written out.
func callsSetConfig(t []token) bool {
	for i := range t {
		if t[i] != (token{wordToken, "set_config"}) {
			continue
		}
		if i+3 >= len(t) || t[i+1].text != "(" || t[i+2].kind != stringToken || t[i+3].text != "," || isReadOnlySetting(t[i+2].text) {
			return true
		}
	}
	return false
}
