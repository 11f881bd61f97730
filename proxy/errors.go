package proxy

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// An Error is told to the client as PostgreSQL would.
type Error struct {
	Code    string // SQLSTATE
	Message string
	Detail  string
	Hint    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code) }

// SQLSTATEs of PostgreSQL's errcodes.txt that the proxy reports.
const (
	CodeConnectionFailure  = "08006"
	codeProtocolViolation  = "08P01"
	codeNotSupported       = "0A000"
	codeReadOnly           = "25006"
	codeInvalidAuth        = "28000"
	codeInvalidPassword    = "28P01"
	CodeUnknownDatabase    = "3D000"
	CodeTooManyConnections = "53300"
	codeAdminShutdown      = "57P01"
	CodeCannotConnectNow   = "57P03"
	codeIdleTimeout        = "57P05"
	codeSuccess            = "00000"
	codeWarning            = "01000"
)

var (
	errShutdown  = &Error{Code: codeAdminShutdown, Message: "terminating connection because pg0 proxy is shut down"}
	errIdle      = &Error{Code: codeIdleTimeout, Message: "terminating connection due to pg0's idle timeout"}
	errTooMany   = &Error{Code: CodeTooManyConnections, Message: "sorry, too many clients already", Hint: "pg0 proxy has --max-connections."}
	errNoTLS     = &Error{Code: codeInvalidAuth, Message: "connections from other machines need TLS", Hint: "Connect with sslmode=require or stronger."}
	errReplicate = &Error{Code: codeNotSupported, Message: "pg0 proxy does not take replication connections", Hint: "Connect to the socket of the server itself; pg0 status shows it."}
	errLongText  = &Error{Code: "54000", Message: "statement is too long for pg0 proxy --read-only", Detail: "Texts of up to 1 MB are looked through."}
	errReadOnly  = &Error{Code: codeReadOnly, Message: "pg0 proxy is read-only, so a session cannot be switched to read-write", Hint: "It was started with --read-only."}
)

func violation(format string, args ...any) *Error {
	return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf(format, args...)}
}

// asError finds what to tell a client of an error.
func asError(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return &Error{Code: CodeConnectionFailure, Message: "pg0 proxy cannot reach the server: " + err.Error()}
}

// fatal is the message that ends a session.
func (e *Error) fatal() []byte {
	message := pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL",
		Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint,
	}
	return encode(&message)
}

// notice is a message that a client shows and goes on.
func notice(severity, code, text string) []byte {
	return encode(&pgproto3.NoticeResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: code, Message: text,
	})
}

// encode never fails for messages of the sizes that the proxy makes.
func encode(m pgproto3.Message) []byte {
	text, err := m.Encode(nil)
	if err != nil {
		panic(fmt.Sprintf("proxy: encode %T: %v", m, err))
	}
	return text
}
