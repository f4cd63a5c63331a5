package media_test

import (
	"os"
	"testing"

	"github.com/spare-compute/spare/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}
