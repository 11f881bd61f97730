package pgtest_test

import (
	"testing"

	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/google/go-cmp/cmp"
)

func TestCluster(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"work_mem": "1MB"}})
	c.Start()
	c.Exec("postgres", "create table t(a int, b text); insert into t values (1, null), (2, 'x')")
	c.Stop(pgtest.Immediate)
	c.Start()
	got := c.Query("postgres", "select a, b, current_setting('work_mem') from t order by a")
	if diff := cmp.Diff([][]string{{"1", "", "1MB"}, {"2", "x", "1MB"}}, got); diff != "" {
		t.Error(diff)
	}
	c.Stop(pgtest.Fast)
}
