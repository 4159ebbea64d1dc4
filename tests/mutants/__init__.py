"""Small mistakes in the library and the laboratory, and the tests that notice them."""

from tests.mutants import attacks, doors, laboratory, protocols, rules, theory

MUTANTS = [
    mutant
    for module in (rules, attacks, protocols, theory, laboratory, doors)
    for mutant in module.MUTANTS
]
