from __future__ import annotations

from corrigenda.edit import Edit
from corrigenda.eval.case import Case, Claims, Probe, distracted, edit_set_hash, sample, superseded


def test_samples_of_one_seed_are_nested_and_of_two_differ(case):
    cases = [case(str(number), f"Land {number}", "X") for number in range(50)]
    ten, all_of_them = sample(cases, 10, 7), sample(cases, None, 7)
    assert all_of_them[:10] == ten
    assert sorted(all_of_them, key=lambda one: int(one.id)) == cases
    assert sample(cases, 10, 8) != ten
    assert sample(list(reversed(cases)), 10, 7) == ten


def test_the_hash_over_edits_depends_on_the_edits_and_their_order(case):
    one, two = case("1", "France", "Lyon"), case("2", "Spain", "Porto")
    assert edit_set_hash([one, two]) == edit_set_hash([one, two])
    assert edit_set_hash([one, two]) != edit_set_hash([two, one])
    assert edit_set_hash([one]) != edit_set_hash([case("1", "France", "Nice")])


def test_a_later_edit_of_the_same_fact_contradicts(case):
    first, other = case("1", "France", "Lyon"), case("2", "Spain", "Porto")
    later = Case("3", (Edit("Paris?", "Nice", subject="FRANCE", relation="capital"),), ())
    assert superseded([first, other, later]) == {"1": "3"}
    assert superseded([later, other, first]) == {"3": "1"}
    same = Case("4", (Edit("the capital of  france is", "lyon"),), ())
    assert superseded([first, same]) == {}
    assert superseded([first, Case("5", (Edit("The capital of France is", "Nice"),), ())]) == {"1": "5"}


def test_the_last_word_decides_which_targets_are_in_force(case):
    def sequence(*targets):
        return superseded([case(str(number), "France", target) for number, target in enumerate(targets, start=1)])

    assert sequence("Lyon", "Lyon", "Nice") == {"1": "3", "2": "3"}
    assert sequence("Lyon", "Nice", "lyon") == {"2": "3"}
    assert sequence("Lyon", "Nice", "Metz") == {"1": "3", "2": "3"}


def test_its_own_subject_does_not_hide_anothers(case):
    france, spain = case("1", "France", "Porto"), case("2", "Spain", "Porto")
    claims = Claims([france, spain, case("3", "Porto", "X")])
    both = Probe("locality", "Between France and Spain lies", (), "n")
    assert claims.owner(france, both) == "2"
    near = Case("1", france.edits, (Probe("locality", "Spain's town is", (), "n"), Probe("locality", "Italy", (), "n")))
    # The statement in front names France, and Porto of which another case speaks; asked is the neighbour.
    assert [claims.owner(near, probe) for probe in distracted(near, 2).probes[2:]] == ["2", None]


def test_claims_by_prompt_and_by_subject_of_the_same_relation(case):
    france, spain = case("1", "France", "Lyon"), case("2", "Spain", "Porto")
    claims = Claims([france, spain])

    def owner(prompt, asker=france):
        return claims.owner(asker, Probe("locality", prompt, (), "n"))

    assert owner("the capital of Spain is") == "2"
    assert owner("Everybody in Spain goes to") == "2"
    assert owner("Spaniards go to") is None
    assert owner("The river of France is") is None  # its own
    assert owner("The capital of Italy is") is None
    nameless = Case("3", (Edit("Who?", "Me"),), ())
    assert owner("Everybody in Spain goes to", nameless) is None
    assert owner("The capital of Spain is", nameless) == "2"
