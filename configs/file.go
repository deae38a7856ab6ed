package configs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const (
	// maxYAML bounds a --config file. The YAML parser's time grows with the square of some inputs; at
	// this size the worst of them takes seconds.
	maxYAML = 64 << 10
	// maxWireGuard bounds a wg-quick file: some ten thousand peers.
	maxWireGuard = 4 << 20
	// maxSecret bounds the file of a secret.
	maxSecret = 64 << 10

	secretPrefix = "file:"
)

var utf8BOM = []byte("\ufeff")

// readFile reads a whole file of at most limit bytes; a pipe will do too. Its errors name the path.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, tooLarge(path, limit)
	}
	return b, nil
}

func tooLarge(name string, limit int64) Problems {
	return Problems{{Position{File: name}, fmt.Sprintf("is larger than %d KiB", limit>>10)}}
}

// text returns b, the contents of the file name, without a byte order mark. What is larger than
// limit or not a text, such as a file in UTF-16, is refused.
func text(name string, b []byte, limit int64) (string, error) {
	if int64(len(b)) > limit {
		return "", tooLarge(name, limit)
	}
	b = bytes.TrimPrefix(b, utf8BOM)
	if utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 {
		return string(b), nil
	}
	return "", Problems{{notText(name, b), "is not a text in UTF-8 here"}}
}

// notText is the place of the first byte that is zero or not UTF-8.
func notText(name string, b []byte) Position {
	line, column := 1, 1
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == 0 || r == utf8.RuneError && size == 1 {
			break
		}
		b = b[size:]
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return Position{name, line, column}
}

// IsSecretFile reports whether Secret reads value from a file.
func IsSecretFile(value string) bool { return strings.HasPrefix(value, secretPrefix) }

// Secret returns the secret that a flag names: value itself or, for file:PATH, what the file holds
// without the line break that ends it. Errors name the path and never the secret. Who may read the
// file is not checked: secrets mounted into containers are readable by everybody who is in there.
func Secret(value string) (string, error) {
	path, ok := strings.CutPrefix(value, secretPrefix)
	if !ok {
		return value, nil
	}
	if path == "" {
		return "", fmt.Errorf("reading secret: no path after %q", secretPrefix)
	}
	b, err := readFile(path, maxSecret)
	if err != nil {
		return "", fmt.Errorf("reading secret: %w", err)
	}
	secret, ok := strings.CutSuffix(string(b), "\n")
	if ok {
		secret = strings.TrimSuffix(secret, "\r")
	}
	if secret == "" {
		return "", fmt.Errorf("reading secret: %s is empty", path)
	}
	return secret, nil
}
