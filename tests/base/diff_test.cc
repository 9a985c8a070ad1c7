#include "base/diff.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace lamina;

TEST_CASE("the difference of two texts") {
  struct Case {
    const char* name;
    std::string before, after, hunks;
  };
  const std::vector<Case> cases = {
      {"a line in the middle", "1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n", "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"},
      {"a line goes", "a\nb\nc\n", "a\nc\n", "@@ -1,3 +1,2 @@\n a\n-b\n c\n"},
      {"a line comes into nothing", "", "a\n", "@@ -0,0 +1 @@\n+a\n"},
      {"everything goes", "a\n", "", "@@ -1 +0,0 @@\n-a\n"},
      {"no newline", "a\nb", "a\nc", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n"},
      {"far apart", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "x\n2\n3\n4\n5\n6\n7\n8\n9\ny\n", "@@ -1,4 +1,4 @@\n-1\n+x\n 2\n 3\n 4\n@@ -7,4 +7,4 @@\n 7\n 8\n 9\n-10\n+y\n"},
      {"near each other", "1\n2\n3\n4\n5\n", "x\n2\n3\n4\ny\n", "@@ -1,5 +1,5 @@\n-1\n+x\n 2\n 3\n 4\n-5\n+y\n"},
      {"a block moved", "a\nb\nc\nd\n", "c\na\nb\nd\n", "@@ -1,4 +1,4 @@\n+c\n a\n b\n-c\n d\n"},
  };
  for (const Case& c : cases) {
    SUBCASE(c.name) { CHECK(unified_diff(c.before, c.after, "f") == "--- f\n+++ f\n" + c.hunks); }
  }
  CHECK(unified_diff("a", "a", "f").empty());
}
