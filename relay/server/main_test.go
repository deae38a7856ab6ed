package server

import (
	"os"
	"testing"

	"ginnel/relay/internal/relaytest"
)

func TestMain(m *testing.M) { os.Exit(relaytest.Run(m)) }
