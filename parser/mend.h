// Applying the mends that diagnostics carry.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/diagnostic.h"

namespace lamina::parser {

struct Mended {
  std::string text;
  size_t count = 0;  // mends applied
};

// Applies the mends of the diagnostics about `file`, in the order given; one that overlaps an earlier one, or whose
// place does not exist, is left out.
Mended apply_mends(std::string_view text, const std::string& file, const std::vector<Diagnostic>& diagnostics);

// The diagnostics of a text.
using FindDiagnostics = std::function<std::vector<Diagnostic>(const std::string& text)>;

// Applies mends until none is left: one may make room for the next. A mend after which the text has more errors than
// before is taken back.
Mended mend_all(std::string text, const std::string& file, const FindDiagnostics& find);

}  // namespace lamina::parser
