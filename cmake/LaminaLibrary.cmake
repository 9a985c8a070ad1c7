# Compiler settings shared by every target, and the one way a room becomes a library.

add_library(lamina_options INTERFACE)
# g++ 12 takes the payload of an empty std::optional for a variable that is read uninitialised.
target_compile_options(lamina_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
  -Woverloaded-virtual -Wunused-result $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
  $<$<BOOL:${LAMINA_WERROR}>:-Werror>)
target_include_directories(lamina_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(lamina_options INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64
  $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)
if(LAMINA_SANITIZE)
  target_compile_options(lamina_options INTERFACE -fsanitize=${LAMINA_SANITIZE}
    -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(lamina_options INTERFACE -fsanitize=${LAMINA_SANITIZE})
endif()
if(LAMINA_FUZZ)
  target_compile_options(lamina_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# lamina_library(room SOURCES a.cc … DEPENDS other_room third_party …)
# makes the static library lamina_<room>; DEPENDS are public.
function(lamina_library room)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(lamina_${room} STATIC ${ARG_SOURCES})
  target_link_libraries(lamina_${room} PUBLIC lamina_options ${ARG_DEPENDS}
                                       PRIVATE ${ARG_PRIVATE_DEPENDS})
endfunction()

# Everything that ctest -L unit runs.
add_custom_target(unit_tests)

# lamina_test(room SOURCES a_test.cc …) makes <room>_tests and registers it with CTest.
function(lamina_test room)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${room}_tests ${ARG_SOURCES})
  target_link_libraries(${room}_tests PRIVATE lamina_${room} lamina_test_main ${ARG_DEPENDS})
  target_compile_definitions(${room}_tests PRIVATE
    LAMINA_TESTDATA="${PROJECT_SOURCE_DIR}/testdata" LAMINA_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_dependencies(unit_tests ${room}_tests)
  add_test(NAME unit.${room} COMMAND ${room}_tests)
  set_tests_properties(unit.${room} PROPERTIES LABELS "unit;${ARG_LABELS}" TIMEOUT 300)
endfunction()
