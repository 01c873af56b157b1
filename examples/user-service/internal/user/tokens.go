package user

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Tokens are opaque to clients, not secret: a kind, so that one is not taken for the other, and a place.
const (
	pageKind   = "p1"
	resumeKind = "r1"
)

var errToken = errors.New("this is no token of ours; pass on what an earlier answer contained, unchanged")

// pageToken says after which id the next page begins.
func pageToken(after string) string { return encodeToken(pageKind, after) }

// parsePageToken answers the id; the empty token means the beginning.
func parsePageToken(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	parts, err := decodeToken(token, pageKind, 1)
	if err != nil {
		return "", err
	}
	if uuid.Validate(parts[0]) != nil {
		return "", errToken
	}
	return parts[0], nil
}

func resumeToken(p Position) string {
	return encodeToken(resumeKind, p.Store, strconv.FormatInt(p.Seq, 10))
}

func parseResumeToken(token string) (Position, error) {
	parts, err := decodeToken(token, resumeKind, 2)
	if err != nil {
		return Position{}, err
	}
	seq, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || seq < 0 || parts[0] == "" {
		return Position{}, errToken
	}
	return Position{parts[0], seq}, nil
}

func encodeToken(parts ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(parts, ".")))
}

// decodeToken answers the parts after the kind.
func decodeToken(token, kind string, parts int) ([]string, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return nil, errToken
	}
	fields := strings.Split(string(text), ".")
	if len(fields) != parts+1 || fields[0] != kind {
		return nil, errToken
	}
	return fields[1:], nil
}
