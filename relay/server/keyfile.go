package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ginnel/key"
)

// keyFile is the JSON of derper's key file (section 10).
type keyFile struct{ PrivateKey key.NodePrivate }

// LoadKey reads a server's key from a file in derper's format. If there is no file, it makes a key
// and the file, readable by its owner only. A file that cannot be used is an error and is not
// changed.
func LoadKey(path string) (key.NodePrivate, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newKeyFile(path)
	}
	if err != nil {
		return key.NodePrivate{}, fmt.Errorf("reading the relay's key: %w", err)
	}
	var f keyFile
	if err := json.Unmarshal(b, &f); err != nil {
		return key.NodePrivate{}, fmt.Errorf("reading the relay's key from %s: %w", path, err)
	}
	if f.PrivateKey.IsZero() {
		return key.NodePrivate{}, fmt.Errorf("reading the relay's key from %s: no PrivateKey in it", path)
	}
	return f.PrivateKey, nil
}

func newKeyFile(path string) (key.NodePrivate, error) {
	f := keyFile{key.NewNodePrivate()}
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return key.NodePrivate{}, fmt.Errorf("writing the relay's key: %w", err)
	}
	if err := writeSecret(path, append(b, '\n')); err != nil {
		return key.NodePrivate{}, fmt.Errorf("writing the relay's key: %w", err)
	}
	return f.PrivateKey, nil
}

// writeSecret makes a file with mode 0600 that is either complete or absent. It does not replace an
// existing file.
func writeSecret(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Link(tmp.Name(), path)
}
