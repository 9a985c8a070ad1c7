// lamina-parse FILE: prints the tree in BuildKit's notation; exits with 2 when the parser refuses the file.
#include <fcntl.h>
#include <fmt/format.h>

#include <iostream>

#include "base/files.h"
#include "parser/expand.h"
#include "parser/tree.h"

int main(int argc, char** argv) {
  int status = 0;
  for (int i = 1; i < argc; ++i) {
    auto text = lamina::read_file(AT_FDCWD, argv[i]);
    if (!text) {
      std::cerr << text.error().render() << "\n";
      return 1;
    }
    const auto parsed = lamina::parser::parse_tree(argv[i], std::move(*text));
    for (const auto& d : parsed.diagnostics) std::cerr << d.render() << "\n";
    if (lamina::parser::has_errors(parsed.diagnostics)) status = 2;
    if (argc == 2) std::cout << lamina::parser::dump(parsed.tree);
  }
  return status;
}
